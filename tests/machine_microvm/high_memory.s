# A kernel for a machine with 5 GiB of memory, whose hole below 4 GiB divides it in two: uses the last words before and the
# first and last words after the hole, then writes a sector of a disk from the upper part and reads it back into the lower
# one, with rings and descriptors in the upper part.
#
# Starts in 64-bit mode with the first 4 GiB mapped. Says M for the memory, W and R for the two requests, or ! when something
# is wrong, and powers off.

    .section .rodata.high_memory_kernel, "a"
    .code64

    .globl high_memory_kernel_start
high_memory_kernel_start:
    # Page directories at 0x300000 for the fifth and sixth GiB, and the entries that lead there.
    movl    $0x300000, %edi
    movabsq $0x100000083, %rax          # present, writable, 2 MiB
    movl    $1024, %ecx
1:  movq    %rax, (%rdi)
    addq    $8, %rdi
    addq    $0x200000, %rax
    decl    %ecx
    jnz     1b
    movl    $0xa000, %edi               # where the boot loader has the third level
    movq    $0x300003, 32(%rdi)
    movq    $0x301003, 40(%rdi)
    movq    %cr3, %rax
    movq    %rax, %cr3

    # Memory: each word holds its own address; what is written into the hole is nowhere.
    movl    $0xbffffff8, %r8d
    movabsq $0x100000000, %r9
    movabsq $0x17ffffff8, %r10
    movl    $0xc0000000, %r11d
    movq    %r8, (%r8)
    movq    %r9, (%r9)
    movq    %r10, (%r10)
    movq    %r11, (%r11)
    cmpq    %r8, (%r8)
    jne     wrong
    cmpq    %r9, (%r9)
    jne     wrong
    cmpq    %r10, (%r10)
    jne     wrong
    cmpq    $-1, (%r11)
    jne     wrong
    movb    $'M', %al
    call    say

    # The disk, ready (virtio 1.2, 3.1.1 and 4.2.2). ebp: its registers, rsi: the rings.
    movl    $0xd0000000, %ebp
    movabsq $0x140000000, %rsi
    movl    $0, 0x70(%rbp)
    movl    $1, 0x70(%rbp)
    movl    $3, 0x70(%rbp)
    movl    $1, 0x24(%rbp)
    movl    $1, 0x20(%rbp)              # VERSION_1 and nothing else
    movl    $0xb, 0x70(%rbp)
    cmpl    $0xb, 0x70(%rbp)
    jne     wrong
    movl    $0, 0x30(%rbp)
    movl    $8, 0x38(%rbp)
    movl    $0x40000000, 0x80(%rbp)     # descriptors
    movl    $1, 0x84(%rbp)
    movl    $0x40001000, 0x90(%rbp)     # the driver's ring
    movl    $1, 0x94(%rbp)
    movl    $0x40002000, 0xa0(%rbp)     # the device's ring
    movl    $1, 0xa4(%rbp)
    movl    $1, 0x44(%rbp)
    movl    $0xf, 0x70(%rbp)

    # A chain of three: header, data, status.
    leaq    0x3000(%rsi), %rax
    movq    %rax, (%rsi)
    movl    $16, 8(%rsi)
    movw    $1, 12(%rsi)                # another one follows
    movw    $1, 14(%rsi)
    movl    $512, 24(%rsi)
    movw    $2, 30(%rsi)
    leaq    0x4000(%rsi), %rax
    movq    %rax, 32(%rsi)
    movl    $1, 40(%rsi)
    movw    $2, 44(%rsi)                # for the device to write
    movq    $3, 0x3008(%rsi)            # the sector

    # The last page: each word holds its own address.
    leaq    -0xff8(%r10), %rdi
    movq    %rdi, %rbx
    movl    $64, %ecx
1:  movq    %rdi, (%rdi)
    addq    $8, %rdi
    decl    %ecx
    jnz     1b

    # Written from there.
    movl    $1, 0x3000(%rsi)
    movq    %rbx, 16(%rsi)
    movw    $1, 28(%rsi)
    movw    $1, %dx
    call    request
    movb    $'W', %al
    call    say

    # Read into the page before the hole.
    leaq    -0xff8(%r8), %rdi
    movl    $0, 0x3000(%rsi)
    movq    %rdi, 16(%rsi)
    movw    $3, 28(%rsi)
    movw    $2, %dx
    call    request
    movl    $64, %ecx
1:  movq    (%rbx), %rax
    cmpq    %rax, (%rdi)
    jne     wrong
    addq    $8, %rbx
    addq    $8, %rdi
    decl    %ecx
    jnz     1b
    movb    $'R', %al
    call    say
    jmp     off

wrong:
    movb    $'!', %al
    call    say
off:
    movw    $0x600, %dx
    movb    $0x34, %al
    outb    %al, %dx
1:  jmp     1b

say:
    movw    $0x3f8, %dx
    outb    %al, %dx
    ret

# Offers the chain as request number dx and waits until it is done.
request:
    movb    $0xff, 0x4000(%rsi)
    movw    %dx, 0x1002(%rsi)
    movl    $0, 0x50(%rbp)
1:  pause
    cmpw    %dx, 0x2002(%rsi)
    jne     1b
    cmpb    $0, 0x4000(%rsi)
    jne     wrong
    ret

    .globl high_memory_kernel_end
high_memory_kernel_end:
