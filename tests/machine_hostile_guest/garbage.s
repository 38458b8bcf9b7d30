# A guest that writes garbage: into the registers of disk 1 and into the memory where its rings are.
#
# Runs on processor 1 from 0x4000 (segment 0x0400) while processor 0 drives disk 0 as it should, and never ends.
# ds: segment 0x2000, the disk's memory; fs: segment 0xd020, its registers; ebx: the state of the generator.
# At 0xff00 of the segment, where no garbage goes, are the number of rounds so far and the seed.

    .section .rodata.garbage_guest, "a"
    .code16

    .globl garbage_guest_start
garbage_guest_start:
    cli
    cld
    # Processor 0 is not to run its handler for disk 1, which trusts the memory that is about to be garbage: all lines of
    # the second interrupt controller off, once processor 0 has set it up.
    xorw    %ax, %ax
    movw    %ax, %ds
1:  pause
    cmpw    $1, 0x504
    jne     1b
    movb    $0xff, %al
    outb    %al, $0xa1
    movw    $0x2000, %ax
    movw    %ax, %ds
    movw    $0xd020, %ax
    movw    %ax, %fs
    movl    0xff04, %ebx                # the seed
round:
    incl    0xff00
    call    random
    movl    %ebx, %ecx
    shrl    $20, %ecx
    andw    $7, %cx
    cmpw    $2, %cx
    jb      any_register
    je      any_memory
    cmpw    $4, %cx
    jb      descriptor
    je      initialise
    cmpw    $6, %cx
    jb      kick
    je      odd_access
    jmp     make_available

# Some register, some value: small, inside the disk's memory, or anything.
any_register:
    movw    %bx, %si
    andw    $0x1fc, %si
    call    value
    cmpw    $0x80, %si                  # addresses stay inside of this disk's memory
    jb      1f
    cmpw    $0xa8, %si
    jae     1f
    call    address
1:  movl    %eax, %fs:(%si)
    jmp     round

# Two long words of the disk's memory.
any_memory:
    movw    %bx, %si
    andw    $0x7ff8, %si
    call    address
    movl    %eax, (%si)
    call    value
    andl    $0xff, %eax
    movl    %eax, 4(%si)
    jmp     round

# A descriptor that looks like one: address inside the disk's memory, some length, some flags, some next.
descriptor:
    movw    %bx, %si
    andw    $0x1f0, %si
    call    address
    movl    %eax, (%si)
    movl    $0, 4(%si)
    call    random
    movl    %ebx, %eax
    andl    $0x1fff, %eax
    movl    %eax, 8(%si)
    movl    %ebx, %eax
    shrl    $13, %eax
    andl    $0x001f0007, %eax
    movl    %eax, 12(%si)
    jmp     round

# Everything right, as far as that goes with rings full of garbage.
initialise:
    movl    $0, %fs:0x70
    movl    $1, %fs:0x70
    movl    $3, %fs:0x70
    movl    $0, %fs:0x24
    movl    $0x30000200, %fs:0x20       # FLUSH, EVENT_IDX, INDIRECT_DESC
    movl    $1, %fs:0x24
    movl    $0x101, %fs:0x20
    movl    $0xb, %fs:0x70
    movl    $0, %fs:0x30
    movl    $32, %fs:0x38
    movl    $0x20000, %fs:0x80
    movl    $0, %fs:0x84
    movl    $0x20200, %fs:0x90
    movl    $0, %fs:0x94
    movl    $0x20300, %fs:0xa0
    movl    $0, %fs:0xa4
    movl    $1, %fs:0x44
    movw    $0, 0x202                   # the device begins at 0, too
    movl    $0xf, %fs:0x70
    jmp     round

kick:
    movl    $0, %fs:0x50
    jmp     round

# Reads and writes of other widths, in the middle of registers.
odd_access:
    movw    %bx, %si
    andw    $0x1ff, %si
    movb    %fs:(%si), %al
    movw    %fs:(%si), %ax
    movb    %bl, %fs:(%si)
    movl    %fs:1(%si), %eax
    jmp     round

# One more entry of the available ring, and the doorbell.
make_available:
    movw    0x202, %si
    andw    $31, %si
    shlw    $1, %si
    movw    %bx, %ax
    andw    $31, %ax
    movw    %ax, 0x204(%si)
    incw    0x202
    movl    $0, %fs:0x50
    jmp     round

# eax: an address in the disk's memory, or far beyond all memory.
address:
    call    random
    movl    %ebx, %eax
    orl     $0x80000000, %eax
    testl   $0x70000, %ebx
    jz      1f
    movzwl  %bx, %eax
    andw    $0x7ff0, %ax
    orl     $0x20000, %eax
1:  ret

value:
    call    random
    movl    %ebx, %eax
    testl   $0x10000, %ebx
    jz      1f
    andl    $0xf, %eax
1:  ret

# The next state: xorshift32.
random:
    movl    %ebx, %eax
    shll    $13, %eax
    xorl    %eax, %ebx
    movl    %ebx, %eax
    shrl    $17, %eax
    xorl    %eax, %ebx
    movl    %ebx, %eax
    shll    $5, %eax
    xorl    %eax, %ebx
    ret

    .globl garbage_guest_end
garbage_guest_end:
    .code64
    .text
