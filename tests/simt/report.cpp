// What a failure says: kernel, block, thread, what happened, and the source line of it.
#include "runtime.h"

#include <dlfcn.h>

namespace simt {
namespace {

std::string text_of(const uint3& v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}

std::string run(const std::string& command) {
  std::string out;
  if (FILE* pipe = popen(command.c_str(), "r")) {
    char chunk[256];
    while (fgets(chunk, sizeof chunk, pipe)) out += chunk;
    pclose(pipe);
  }
  return out;
}

// What addr2line says of an address in this library, one line per item.
std::string address_info(const void* address, const char* options) {
  Dl_info info;
  if (!address || !dladdr(address, &info)) return "unknown code";
  char command[4096];
  snprintf(command, sizeof command, "addr2line -C %s -e '%s' %#zx 2>/dev/null", options,
           info.dli_fname,
           static_cast<size_t>(static_cast<const char*>(address) -
                               static_cast<const char*>(info.dli_fbase)));
  return run(command);
}

std::string kernel_name() {
  const std::string info = address_info(block.kernel, "-f");
  const std::string name = info.substr(0, info.find('\n'));
  size_t end = name.size();  // without the parameter list, the last (...) outside <>
  int depth = 0;
  for (size_t i = name.size(); i-- > 0;) {
    depth += (name[i] == ')') - (name[i] == '(');
    if (depth == 0 && name[i] == '(') {
      end = i;
      break;
    }
  }
  return name.substr(0, end);
}

std::string circumstances() {
  return kernel_name() + ", block " + text_of(block.index) + ", thread " +
         text_of(current->thread) + ": ";
}

}  // namespace

std::string source_of(const void* code) {
  // The byte before a return address belongs to the call.
  std::string text = address_info(static_cast<const char*>(code) - 1, "-i");
  for (size_t at; (at = text.find(" (discriminator")) != std::string::npos;) {
    text.erase(at, text.find(')', at) + 1 - at);
  }
  while (!text.empty() && text.back() == '\n') text.pop_back();
  for (size_t at; (at = text.find('\n')) != std::string::npos;) text.replace(at, 1, " < ");
  return text;
}

void fail(Where where, const char* format, ...) {
  char text[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  end_grid(circumstances() + text + ", at " + where.file + ":" + std::to_string(where.line));
}

void fail_at(const void* address, const char* format, ...) {
  char text[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  end_grid(circumstances() + text + ", at " + source_of(address));
}

}  // namespace simt
