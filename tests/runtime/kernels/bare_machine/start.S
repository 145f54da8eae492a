// From a boot loader that knows multiboot to C code in 64 bits, with AVX512 switched on; and the way into system calls.
#define PRESENT 1
#define WRITABLE 2
#define LARGE 0x80

  .section .multiboot, "a"
  .align 4
  .long 0x1BADB002, 0, -0x1BADB002

  .text
  .code32
  .global start
start:
  cli
  xorl %ecx, %ecx  // the first GiB, each address itself, in pages of 2 MiB
1:
  movl %ecx, %eax
  shll $21, %eax
  orl $(PRESENT | WRITABLE | LARGE), %eax
  movl %eax, directory(, %ecx, 8)
  incl %ecx
  cmpl $512, %ecx
  jne 1b
  movl $(directory + PRESENT + WRITABLE), pointers
  movl $(pointers + PRESENT + WRITABLE), top
  movl $top, %eax
  movl %eax, %cr3
  movl %cr4, %eax
  orl $0x40620, %eax  // 64-bit pages, SSE, its exceptions, XSAVE
  movl %eax, %cr4
  movl $0xC0000080, %ecx  // EFER: long mode, SYSCALL
  rdmsr
  orl $0x101, %eax
  wrmsr
  movl %cr0, %eax
  andl $~0xC, %eax
  orl $0x80000022, %eax  // pages, floating point
  movl %eax, %cr0
  lgdt segments_at
  ljmp $8, $start64

  .code64
start64:
  movw $16, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movq $stack_end, %rsp
  xorl %ecx, %ecx
  xorl %edx, %edx
  movl $0xE7, %eax  // x87, SSE, AVX and the three parts of AVX512
  xsetbv
  movl $0xC0000081, %ecx  // STAR: the segments of a system call
  xorl %eax, %eax
  movl $8, %edx
  wrmsr
  movl $0xC0000082, %ecx  // LSTAR: its address
  movl $enter_call, %eax
  xorl %edx, %edx
  wrmsr
  fninit
  call run_program

// enter_program(address, stack)
  .global enter_program
enter_program:
  movq %rsi, %rsp
  xorl %edx, %edx
  jmp *%rdi

// The program runs in the same ring, so a system call is a jump there and back, on another stack.
enter_call:
  movq %rsp, program_stack
  movq $call_stack_end, %rsp
  pushq %rcx
  pushq %rdi
  pushq %rsi
  pushq %rdx
  pushq %r8
  pushq %r9
  pushq %r10
  subq $8, %rsp
  movq %rdx, %rcx
  movq %rsi, %rdx
  movq %rdi, %rsi
  movq %rax, %rdi
  call serve_call
  addq $8, %rsp
  popq %r10
  popq %r9
  popq %r8
  popq %rdx
  popq %rsi
  popq %rdi
  popq %rcx
  movq program_stack, %rsp
  jmp *%rcx

  .section .rodata
  .align 16
segments:
  .quad 0, 0x00AF9A000000FFFF, 0x00CF92000000FFFF
segments_at:
  .word 23
  .long segments
  .align 16
  .global program
program:
  .incbin PROGRAM

  .bss
  .align 4096
top:
  .skip 4096
pointers:
  .skip 4096
directory:
  .skip 4096
  .skip 65536
stack_end:
  .skip 65536
call_stack_end:
program_stack:
  .skip 8
