"""The built package: its libraries, what it says when one is missing or foreign, and its CMake."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tokenburst
from tokenburst import _C, _native

REPOSITORY = Path(__file__).parents[1]
CUDA_LIBRARY = _native.build_info()["cuda_library"]
STAND_IN = "int aoti_torch_get_current_cuda_stream(int d, void** s) { *s = 0; return 0; }"
# Offers libraries to the loader, first beside this torch, then beside a stand-in for libtorch_cuda.
LOAD = """
import ctypes, json, os
from tokenburst import _C, _native
stand_in, library, *refused = sys.argv[1:]
said = {"isa": _C.isa(), "no stream": library and _C.load_cuda(library)}
ctypes.CDLL(stand_in, mode=ctypes.RTLD_GLOBAL)
said |= {os.path.basename(path): _C.load_cuda(path) for path in refused}
said["before"] = [op for op in _native.op_names() if _C.cuda_has(op)]
said["library"] = library and _C.load_cuda(library)
said["missing"] = [op for op in _native.op_names() if not _C.cuda_has(op)]
print(json.dumps(said))
"""


def run(code, *args, **env):
    """A fresh interpreter that finds this same package; a crash shows as a negative exit status."""
    code = f"import sys; sys.path[:0] = {sys.path!r}\n" + code
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""} | env,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stderr
    return done


def compile_library(path, source, *options):
    path.with_suffix(".c").write_text(source)
    command = ["gcc", "-shared", "-fPIC", *options, "-o", path, path.with_suffix(".c")]
    subprocess.run(command, check=True)
    return path


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the loader answered in a process of its own."""
    folder = tmp_path_factory.mktemp("libraries")
    stand_in = compile_library(
        folder / "libtorch_cuda.so", STAND_IN, "-Wl,-soname,libtorch_cuda.so"
    )
    other_id = 'const char* tokenburst_cuda_build_id(void) { return "0.0"; }'
    corrupt = folder / "corrupt.so"
    corrupt.write_bytes(b"not a library")
    refused = [
        folder / "absent.so",
        compile_library(folder / "foreign.so", other_id),
        compile_library(folder / "stranger.so", "int nothing;"),
        corrupt,
    ]
    return json.loads(run(LOAD, stand_in, CUDA_LIBRARY or "", *refused, TOKENBURST_ISA="").stdout)


def test_cuda_library_is_complete(said):
    if CUDA_LIBRARY is None:  # built without nvcc
        assert said["missing"] == _native.op_names()
        return
    assert (said["library"], said["missing"]) == ("", [])
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", CUDA_LIBRARY], capture_output=True, text=True, check=True
    ).stdout
    system = re.compile(r"@(GLIBC|GLIBCXX|CXXABI|GCC)_|^ +w ")
    assert [line for line in symbols.splitlines() if not system.search(line)] == []


def test_cuda_library_needs_a_cuda_torch(said):
    if CUDA_LIBRARY and torch.version.cuda is None:
        assert said["no stream"].startswith("this torch offers no CUDA stream")


def test_foreign_cuda_library_is_refused(said):
    assert re.search(r"absent\.so: .*No such file", said["absent.so"])
    assert f"another build: expected {_C.build_id}, got 0.0" in said["foreign.so"]
    assert said["stranger.so"].endswith("got no build id")
    assert re.search(r"corrupt\.so: ", said["corrupt.so"])
    assert said["before"] == []


# Only what lies on sys.path is found: an editable install hooks in before it.
FROM_PATH = "sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder) is type]\n"


def copied(tmp_path):
    """A second copy of the package, compiled modules included."""
    source, copy = Path(tokenburst.__file__).parent, tmp_path / "tokenburst"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("*.so", "zoo", "__pycache__"))
    return copy, Path(shutil.copy(_C.__file__, copy))


def test_missing_or_corrupt_module_is_said(tmp_path):
    copy, module = copied(tmp_path)
    code = FROM_PATH + "sys.path.insert(0, sys.argv[1]); import tokenburst"
    module.write_bytes(b"not a library")
    corrupt = run(code, copy.parent).stderr
    module.unlink()
    absent = run(code, copy.parent).stderr
    for text in (corrupt, absent):
        assert "ImportError: tokenburst: the compiled module cannot be loaded (" in text
        assert "pip install" in text


def test_second_copy_is_refused(tmp_path):
    copied(tmp_path)
    done = run(
        "import tokenburst\n"
        "for name in [n for n in sys.modules if n.split('.')[0] == 'tokenburst']:\n"
        "    del sys.modules[name]\n"
        + FROM_PATH
        + "sys.path.insert(0, sys.argv[1]); import tokenburst",
        tmp_path,
    )
    assert "ImportError: tokenburst: another copy of the package" in done.stderr


def test_instruction_set_from_the_environment(said):
    assert said["isa"] in ("avx2", "portable")
    code = "from tokenburst import _C; print(_C.isa())"
    assert run(code, TOKENBURST_ISA="portable").stdout.strip() == "portable"
    refused = run(code, TOKENBURST_ISA="avx512").stderr
    assert "isa: expected portable or avx2, got 'avx512' from TOKENBURST_ISA" in refused


def test_wide_instructions_stay_in_their_build():
    """A function shared with the portable build must not come from the AVX2 one."""
    text = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", _C.__file__],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    functions = re.split(r"\n(?=[0-9a-f]{16} <)", text)[1:]
    wide = [f.split("\n", 1)[0] for f in functions if re.search(r"\t(v[a-z0-9]+ |.*%ymm)", f)]
    assert [name for name in wide if "tokenburst::avx2" not in name] == []
    if _C.isa() == "avx2":
        assert "tokenburst::avx2" in text, "the module was stripped of its names"


@pytest.mark.parametrize(
    ("choice", "status", "message"),
    [
        ("on", 1, "TOKENBURST_CUDA=on, but no working nvcc was found"),
        ("auto", 0, "no working nvcc was found: building without CUDA kernels"),
        ("maybe", 1, "TOKENBURST_CUDA: expected auto, on or off, got 'maybe'"),
    ],
)
def test_cmake_says_what_it_lacks(tmp_path, choice, status, message):
    command = ["cmake", "-G", "Ninja", "-S", REPOSITORY, "-B", tmp_path]
    command += [f"-DTOKENBURST_CUDA={choice}", f"-DPython_EXECUTABLE={sys.executable}"]
    env = os.environ | {"CUDACXX": "/nowhere/nvcc"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == status, done.stderr
    assert message in re.sub(r"\s+", " ", done.stderr)


def test_the_references_are_not_loaded_at_run_time():
    code = "import sys, tokenburst; assert 'tokenburst.ref' not in sys.modules; print('kept out')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "kept out\n", done.stderr
