"""The rules that published stochastic verifiers broke, and bad input: each has its test."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
CONTROLS, SAMPLE = "ops/test_tree_verify_sample_controls.py", "ops/test_tree_verify_sample.py"
WHOLE = "decoders/test_sampling_controls.py"
REFUSED = "decoders/test_tree_refusals.py"

RULES = {
    "C1 siblings are verified in draw order": [
        f"{CONTROLS}::test_order_of_siblings",
        "decoders/test_draft_shapes.py::test_siblings_out_of_draw_order_are_detected",
        f"{WHOLE}::test_a_defect_is_seen",
    ],
    "C2 the number of siblings is a stopping time": [
        f"{CONTROLS}::test_c2_child_dropped_after_looking_at_it"
    ],
    "C3 the q in the test is the q that was drawn from": [
        f"{CONTROLS}::test_c3_argmax_verified_as_if_sampled",
        f"{CONTROLS}::test_c3_drafted_from_another_q_than_the_one_given",
        "decoders/test_drafters_law.py::test_whole_texts",  # own temperature, top_k, top_p
    ],
    "C4 uniforms are fresh each step and independent of draft noise": [
        f"{CONTROLS}::test_c4_random_numbers_used_twice",
        f"{CONTROLS}::test_c4_draft_noise_and_verdicts_have_counters_of_their_own",
    ],
    "C5 distinct siblings where a rule needs them, duplicates as attempts where it does not": [
        f"{CONTROLS}::test_c5_siblings_counted_twice",
        f"{CONTROLS}::test_c5_a_repeated_draw_is_no_second_attempt_without_replacement",
        "ops/test_tree_verify_sample_law.py::test_sequences_that_share_a_prefix_stay_attempts",
        "decoders/test_merging.py::test_siblings_differ_and_nothing_is_lost",
    ],
    "C6 the residual is computed again after every rejection": [
        f"{CONTROLS}::test_c6_draws_without_replacement_verified_as_independent",
        f"{CONTROLS}::test_c6_siblings_tested_with_unmodified_p_and_q",
    ],
    "C7 the same processing on every target row, the bonus token's included": [
        f"{CONTROLS}::test_c7_bonus_token_goes_through_the_filters",
        f"{WHOLE}::test_unfiltered_bonus_tokens_are_seen",
    ],
    "C8 no residual mass: emit from what was there": [
        f"{CONTROLS}::test_c8_nothing_left_after_a_rejection_emits_from_what_was_there"
    ],
    "C9 a token of probability 0 is never accepted": [
        f"{CONTROLS}::test_c9_and_c10_impossible_tokens_never_come_out"
    ],
    "C10 float sums below 1 never give an impossible token": [
        f"{CONTROLS}::test_c9_and_c10_impossible_tokens_never_come_out"
    ],
    "duplicate siblings where a mode needs distinct ones": [
        f"{CONTROLS}::test_c5_a_repeated_draw_is_no_second_attempt_without_replacement",
        f"{WHOLE}::test_repeated_siblings_are_never_reached",
        "decoders/test_recycling.py::test_siblings_differ_even_from_a_bad_file",
    ],
    "a mode that is not exact for the draws": [
        "decoders/test_merging.py::test_a_mode_that_would_be_biased_is_refused"
    ],
    "draft probabilities that do not sum to one or miss the drafted token": [
        f"{SAMPLE}::test_refusals"
    ],
    "another vocabulary in draft and target": [
        "decoders/test_draft_shapes.py::test_refusals",
        f"{REFUSED}::test_other_vocabulary",
        f"{SAMPLE}::test_refusals",
    ],
    "a tree deeper than the cache": [f"{REFUSED}::test_refused"],
    "rows of NaN": [
        f"{REFUSED}::test_logits_without_numbers",
        f"{SAMPLE}::test_rows_without_numbers",
    ],
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_has_its_tests(rule):
    for test in RULES[rule]:
        file, name = test.split("::")
        tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
        assert name in {f.name for f in tree.body if isinstance(f, ast.FunctionDef)}, test
