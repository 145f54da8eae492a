// Runs one static Linux program on a machine without an operating system: what it prints goes to the first serial port,
// and Bochs ends when it ends. One thread, no files, memory that is never given back.
#include <stdint.h>

enum { kSerial = 0x3f8, kShutdown = 0x8900 };
enum Call {
  kWrite = 1, kFstat = 5, kMmap = 9, kMprotect = 10, kMunmap = 11, kBrk = 12, kSigaction = 13, kSigprocmask = 14,
  kWritev = 20, kExit = 60, kArchPrctl = 158, kFutex = 202, kSetTidAddress = 218, kExitGroup = 231, kFstatat = 262,
  kSetRobustList = 273, kGetrandom = 318
};
enum { kNoCall = -38, kBaseOfThread = 0x1002, kTerminal = 0020000 };

extern uint8_t program[];
void enter_program(uint64_t address, uint64_t stack);

// The program itself lies at 4 MiB, this at 64.
static uint64_t heap_end = 128u << 20, mapped_end = 256u << 20;
static uint64_t stack[1 << 17];

static void out(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static uint8_t in(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

static uint64_t print(const char* text, uint64_t size) {
  for (uint64_t i = 0; i < size; ++i) {
    while (!(in(kSerial + 5) & 0x20)) {
    }
    out(kSerial, (uint8_t)text[i]);
  }
  return size;
}

static void clear(uint64_t from, uint64_t to) {
  for (uint64_t at = from; at < to; ++at) *(uint8_t*)at = 0;
}

__attribute__((noreturn)) static void end(uint64_t code) {
  print(code ? "exit 1\n" : "exit 0\n", 7);
  while (!(in(kSerial + 5) & 0x40)) {  // until the last byte is out
  }
  for (const char* word = "Shutdown"; *word; ++word) out(kShutdown, (uint8_t)*word);
  for (;;) __asm__ volatile("cli; hlt");
}

static uint64_t print_parts(const uint64_t* parts, uint64_t count) {
  uint64_t total = 0;
  for (uint64_t i = 0; i < count; ++i) total += print((const char*)parts[i * 2], parts[i * 2 + 1]);
  return total;
}

uint64_t serve_call(uint64_t call, uint64_t a, uint64_t b, uint64_t c) {
  switch (call) {
    case kWrite: return print((const char*)b, c);
    case kWritev: return print_parts((const uint64_t*)b, c);
    case kFstat:
    case kFstatat: {
      uint8_t* status = (uint8_t*)(call == kFstat ? b : c);
      clear((uint64_t)status, (uint64_t)status + 144);
      *(uint32_t*)(status + 24) = kTerminal;
      return 0;
    }
    case kMmap: {
      const uint64_t at = mapped_end;
      mapped_end += (b + 4095) & ~(uint64_t)4095;
      clear(at, mapped_end);
      return at;
    }
    case kBrk:
      if (a > heap_end) {
        clear(heap_end, a);
        heap_end = a;
      }
      return heap_end;
    case kArchPrctl:
      if (a != kBaseOfThread) return (uint64_t)kNoCall;
      __asm__ volatile("wrmsr" ::"c"(0xC0000100), "a"((uint32_t)b), "d"((uint32_t)(b >> 32)));
      return 0;
    case kGetrandom:
      for (uint64_t i = 0; i < b; ++i) ((uint8_t*)a)[i] = (uint8_t)(i * 37 + 11);
      return b;
    case kSetTidAddress: return 1;
    case kMprotect:
    case kMunmap:
    case kSigaction:
    case kSigprocmask:
    case kFutex:
    case kSetRobustList: return 0;
    case kExit:
    case kExitGroup: end(a);
    default: return (uint64_t)kNoCall;
  }
}

// Copies the program to where it was linked; returns where its headers are then.
static uint64_t load(void) {
  const uint64_t headers = *(uint64_t*)(program + 32);
  uint64_t loaded = 0;
  for (int i = 0; i < *(uint16_t*)(program + 56); ++i) {
    const uint8_t* header = program + headers + i * 56;
    const uint64_t* fields = (const uint64_t*)header;
    const uint64_t offset = fields[1], address = fields[2], in_file = fields[4], in_memory = fields[5];
    if (*(uint32_t*)header != 1) continue;
    for (uint64_t k = 0; k < in_file; ++k) ((uint8_t*)address)[k] = program[offset + k];
    clear(address + in_file, address + in_memory);
    if (offset <= headers && headers < offset + in_file) loaded = address + headers - offset;
  }
  return loaded;
}

void run_program(void) {
  static char name[] = "program", argument[] = "without-threads";
  static uint8_t random[16];
  const uint64_t entry = *(uint64_t*)(program + 24);
  const uint64_t words[] = {
      2, (uint64_t)name, (uint64_t)argument, 0, 0,                  // arguments, no environment
      3, load(), 4, 56, 5, *(uint16_t*)(program + 56), 9, entry,    // headers of the program
      6, 4096, 17, 100, 23, 0, 25, (uint64_t)random, 31, (uint64_t)name, 0, 0};
  out(kSerial + 3, 3);  // eight bits
  uint64_t* to = stack + (1 << 17) - 64;
  for (unsigned i = 0; i < sizeof words / 8; ++i) to[i] = words[i];
  enter_program(entry, (uint64_t)to);
}
