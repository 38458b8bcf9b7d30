# The embedded guest: 16-bit code that drives virtio-blk disks through virtio-mmio.
#
# For each disk it writes a pattern to every block, flushes, reads everything back and compares. It sleeps (hlt) until
# the disks interrupt it through the PIC, and at the end reports through a port.
#
# Where things are (guest physical):
#     0x00000  interrupt vectors
#     0x00500  machine: what the host says about the machine, and time stamps      segment 0x0050, in gs
#     0x01000  this code                                                           segment 0x0100, in cs
#     0x0f000  stacks, 0x400 bytes for each processor                              segment 0x0100, in ss
#     0x10000  disk 0: rings, requests, control block, data                        segment 0x1000, in ds
#     0x20000  disk 1                                                              segment 0x2000, in ds
#     0xd0000  registers of disk 0, then of disk 1, 0x200 bytes each               segment 0xd000.., in fs
#
# With one processor it drives all disks; with two, each processor drives the disk of its number. Interrupts of the PIC
# go to processor 0 only, so processor 1 looks for itself.
#
# The host's side, guest.rs, uses the layout of machine, disk and control block.

    .section .rodata.qcontext_guest, "a"
    .code16

    # Machine
    .set M_DISKS, 0             # word: how many disks
    .set M_CPUS, 2              # word: how many processors
    .set M_GO, 4                # word: processor 0 has prepared everything
    .set M_BEGIN, 8             # quad: time stamp at the beginning
    .set M_END, 16              # quad: and at the end

    # Disk
    .set DESCRIPTORS, 0x0000
    .set AVAIL_FLAGS, 0x0200
    .set AVAIL_INDEX, 0x0202
    .set AVAIL_RING, 0x0204
    .set USED_FLAGS, 0x0300
    .set USED_INDEX, 0x0302
    .set HEADERS, 0x0500
    .set STATUSES, 0x0600
    .set DATA, 0x8000
    .set QUEUE_SIZE, 32
    .set BLOCK, 4096

    # Control block: what the host asks for
    .set REGISTERS, 0x0700      # word: segment
    .set FLAGS, 0x0702          # word
    .set BASE, 0x0704           # long: physical address of this segment
    .set BLOCKS, 0x0708         # word: how many blocks to write and read, at least 1
    .set DEPTH, 0x070a          # word: how many requests at a time, 1 to 8
    .set KICKS, 0x070c          # word: how often to ring for each batch, at least 1
    .set RESET_EVERY, 0x070e    # word: reset after that many batches, with the requests in flight; 0 never
    .set SEED, 0x0710           # long: makes the pattern this disk's
    # and what it is told
    .set ERROR, 0x0714          # word: see below
    .set PHASE, 0x0716          # word: see below
    .set NEXT_BLOCK, 0x0718     # word: first block of the batch
    .set IN_FLIGHT, 0x071a      # word: requests of the batch
    .set AVAIL, 0x071c          # word: what AVAIL_INDEX is going to be
    .set USED_SEEN, 0x071e      # word: what USED_INDEX was before the batch
    .set INTERRUPTS, 0x0720     # long
    .set BATCHES, 0x0724        # long
    .set REQUESTS, 0x0728       # long
    .set RESETS, 0x072c         # long
    .set LATENCY_MIN, 0x0730    # long: time from the doorbell to the interrupt that ends the batch
    .set LATENCY_MAX, 0x0734    # long
    .set LATENCY_SUM, 0x0738    # quad
    .set STARTED, 0x0740        # quad: time stamp at the doorbell
    .set BATCHES_LEFT, 0x0748   # word: until the next reset
    .set BAD_BLOCK, 0x074a      # word: where the comparison failed
    .set INTERRUPTED, 0x0750    # quad: time stamp of the last interrupt
    .set IS_INTERRUPTED, 0x0758 # word: that was since the doorbell

    # Flags
    .set NO_ACK, 1              # never acknowledge an interrupt to the device
    .set NO_EOI, 2              # nor to the PIC
    .set POLL, 4                # do not sleep
    .set EARLY_KICK, 8          # ring for the first batch before DRIVER_OK, and not again
    .set QUEUE_RESETS, 16       # reset the queue only, not the device

    # Errors
    .set E_NO_DEVICE, 1
    .set E_FEATURES, 2
    .set E_STATUS, 3            # a request was not answered with 0
    .set E_DATA, 4              # what was read is not what was written
    .set E_NEEDS_RESET, 5       # the device gave up

    # Phases: what the batch in flight does
    .set P_FRESH, 0
    .set P_WRITE, 1
    .set P_FLUSH, 2
    .set P_READ, 3
    .set P_DONE, 4

    # Registers of virtio-mmio
    .set R_MAGIC, 0x00
    .set R_VERSION, 0x04
    .set R_DEVICE_ID, 0x08
    .set R_DRIVER_FEATURES, 0x20
    .set R_DRIVER_FEATURES_SEL, 0x24
    .set R_QUEUE_SEL, 0x30
    .set R_QUEUE_NUM, 0x38
    .set R_QUEUE_READY, 0x44
    .set R_QUEUE_NOTIFY, 0x50
    .set R_INTERRUPT_STATUS, 0x60
    .set R_INTERRUPT_ACK, 0x64
    .set R_STATUS, 0x70
    .set R_QUEUE_DESC, 0x80
    .set R_QUEUE_DESC_HIGH, 0x84
    .set R_QUEUE_DRIVER, 0x90
    .set R_QUEUE_DRIVER_HIGH, 0x94
    .set R_QUEUE_DEVICE, 0xa0
    .set R_QUEUE_DEVICE_HIGH, 0xa4
    .set R_QUEUE_RESET, 0xc0

    # The host's ports
    .set PORT_BEGIN, 0x500
    .set PORT_END, 0x501        # al: 0 if every disk is fine

    # The pattern: word i of block b is SEED + b * BLOCK_STEP + i * WORD_STEP
    .set BLOCK_STEP, 0x85ebca6b
    .set WORD_STEP, 0x9e3779b1

    .globl qcontext_guest_start
qcontext_guest_start:
    cli
    cld
    movw    %ax, %bp                    # bp: this processor's number
    movw    $0x50, %ax
    movw    %ax, %gs
    testw   %bp, %bp
    jnz     wait_for_go
    call    set_vectors
    call    set_pic
    rdtsc
    movl    %eax, %gs:M_BEGIN
    movl    %edx, %gs:M_BEGIN+4
    movw    $PORT_BEGIN, %dx
    outb    %al, %dx
    movw    $1, %gs:M_GO
    jmp     drive
wait_for_go:
    pause
    cmpw    $1, %gs:M_GO
    jne     wait_for_go

# Goes round this processor's disks until all are done. si: number of disks not done.
drive:
    xorw    %si, %si
    call    first_disk
1:  call    enter_disk
    call    step
    cmpw    $P_DONE, PHASE
    je      2f
    incw    %si
2:  call    next_disk
    jc      1b
    testw   %si, %si
    jz      finish
    call    wait
    jmp     drive

# Sleeps until there may be something to do. What comes after the look interrupts the sleep, as sti takes effect after hlt.
wait:
    cli
    call    first_disk
1:  call    enter_disk
    testw   $POLL, FLAGS
    jnz     3f
    cmpw    $P_DONE, PHASE
    je      2f
    movw    USED_INDEX, %ax
    cmpw    USED_SEEN, %ax
    jne     3f
2:  call    next_disk
    jc      1b
    testw   %bp, %bp                    # no interrupt reaches other processors
    jnz     3f
    sti
    hlt
    ret
3:  testw   %bp, %bp
    jnz     4f
    sti
4:  pause
    ret

# bx: the first disk of this processor.
first_disk:
    xorw    %bx, %bx
    cmpw    $1, %gs:M_CPUS
    je      1f
    movw    %bp, %bx
1:  ret

# bx: the next one; carry set if there is one.
next_disk:
    incw    %bx
    cmpw    $1, %gs:M_CPUS
    jne     1f
    cmpw    %gs:M_DISKS, %bx            # carry: below
    ret
1:  clc
    ret

# ds and fs for disk bx.
enter_disk:
    movw    %bx, %ax
    incw    %ax
    shlw    $12, %ax
    movw    %ax, %ds
    movw    %ax, %es
    movw    REGISTERS, %ax
    movw    %ax, %fs
    ret

# This processor's disks are done. Processor 0 waits for all others and reports.
finish:
    testw   %bp, %bp
    jnz     halt
    xorw    %bx, %bx
    xorw    %cx, %cx                    # cx: all errors
1:  call    enter_disk
2:  pause
    cmpw    $P_DONE, PHASE
    jne     2b
    orw     ERROR, %cx
    incw    %bx
    cmpw    %gs:M_DISKS, %bx
    jb      1b
    rdtsc
    movl    %eax, %gs:M_END
    movl    %edx, %gs:M_END+4
    movw    %cx, %ax
    movw    $PORT_END, %dx
    outb    %al, %dx
halt:
    cli
    hlt
    jmp     halt

# Brings a disk forward, if it can be.
step:
    cmpw    $P_DONE, PHASE
    je      9f
    cmpw    $P_FRESH, PHASE
    je      begin
    movw    USED_INDEX, %ax
    subw    USED_SEEN, %ax
    cmpw    IN_FLIGHT, %ax
    je      batch_done
    testw   $POLL, FLAGS                # one that cannot be interrupted has to look for itself
    jz      9f
    testl   $0x40, %fs:R_STATUS
    jz      9f
    movw    $E_NEEDS_RESET, %ax
    jmp     give_up
9:  ret

begin:
    movw    RESET_EVERY, %ax
    movw    %ax, BATCHES_LEFT
    movl    $-1, LATENCY_MIN
    movw    $P_WRITE, PHASE
    call    reset_device
    jc      9f
    testw   $EARLY_KICK, FLAGS
    jz      1f
    call    put_batch
    movl    $0, %fs:R_QUEUE_NOTIFY
    movl    $0xf, %fs:R_STATUS
    ret
1:  movl    $0xf, %fs:R_STATUS
    jmp     submit
9:  ret

# ax: error
give_up:
    movw    %ax, ERROR
    movw    $P_DONE, PHASE
    ret

batch_done:
    cli
    rdtsc
    cmpw    $0, IS_INTERRUPTED
    je      7f
    movl    INTERRUPTED, %eax
    movl    INTERRUPTED+4, %edx
7:  testw   %bp, %bp
    jnz     8f
    sti
8:  subl    STARTED, %eax
    sbbl    STARTED+4, %edx
    jz      1f
    movl    $-1, %eax                   # longer than we can say
1:  cmpl    LATENCY_MIN, %eax
    jae     2f
    movl    %eax, LATENCY_MIN
2:  cmpl    LATENCY_MAX, %eax
    jbe     3f
    movl    %eax, LATENCY_MAX
3:  addl    %eax, LATENCY_SUM
    adcl    $0, LATENCY_SUM+4
    movw    USED_INDEX, %ax
    movw    %ax, USED_SEEN
    incl    BATCHES
    movzwl  IN_FLIGHT, %eax
    addl    %eax, REQUESTS
    movw    $E_STATUS, %ax
    movw    $STATUSES, %di
    movw    IN_FLIGHT, %cx
4:  cmpb    $0, (%di)
    jne     give_up
    incw    %di
    loop    4b
    cmpw    $P_FLUSH, PHASE
    je      6f
    cmpw    $P_WRITE, PHASE
    je      5f
    call    compare
    jc      9f
5:  movw    IN_FLIGHT, %ax
    addw    NEXT_BLOCK, %ax
    movw    %ax, NEXT_BLOCK
    cmpw    BLOCKS, %ax
    jb      submit
6:  movw    $0, NEXT_BLOCK
    incw    PHASE
    cmpw    $P_DONE, PHASE
    jne     submit
9:  ret

# Submits the next batch of the phase; now and then resets everything right after that, and submits it again.
submit:
    call    put_batch
    movw    KICKS, %cx
1:  movl    $0, %fs:R_QUEUE_NOTIFY
    loop    1b
    cmpw    $0, RESET_EVERY
    je      9f
    decw    BATCHES_LEFT
    jnz     9f
    movw    RESET_EVERY, %ax
    movw    %ax, BATCHES_LEFT
    incl    RESETS
    testw   $QUEUE_RESETS, FLAGS
    jnz     2f
    call    reset_device
    jc      9f
    movl    $0xf, %fs:R_STATUS
    jmp     3f
2:  movl    $0, %fs:R_QUEUE_SEL
    movl    $1, %fs:R_QUEUE_RESET
4:  pause
    testl   $1, %fs:R_QUEUE_RESET
    jnz     4b
    call    set_queue
3:  call    put_batch
    movl    $0, %fs:R_QUEUE_NOTIFY
9:  ret

# Puts the next batch of the phase into the ring.
put_batch:
    movw    BLOCKS, %ax
    subw    NEXT_BLOCK, %ax
    cmpw    DEPTH, %ax
    jbe     1f
    movw    DEPTH, %ax
1:  cmpw    $P_FLUSH, PHASE
    jne     2f
    movw    $1, %ax
2:  movw    %ax, IN_FLIGHT
    pushw   %bx
    xorw    %bx, %bx                    # bx: number in the batch
3:  call    put_request
    incw    %bx
    cmpw    IN_FLIGHT, %bx
    jb      3b
    popw    %bx
    rdtsc
    movl    %eax, STARTED
    movl    %edx, STARTED+4
    movw    $0, IS_INTERRUPTED
    movw    AVAIL, %ax
    movw    %ax, AVAIL_INDEX
    ret

# Puts request bx of the batch into the ring: header, data unless it is a flush, status.
put_request:
    # di: its three descriptors
    imulw   $48, %bx, %di
    # The header: type, 0, sector
    movw    %bx, %si
    shlw    $4, %si
    movl    $1, HEADERS(%si)            # write
    cmpw    $P_WRITE, PHASE
    je      1f
    movl    $4, HEADERS(%si)            # flush
    cmpw    $P_FLUSH, PHASE
    je      1f
    movl    $0, HEADERS(%si)            # read
1:  movl    $0, HEADERS+4(%si)
    movzwl  NEXT_BLOCK, %eax
    addw    %bx, %ax
    shll    $3, %eax
    cmpw    $P_FLUSH, PHASE
    jne     2f
    xorl    %eax, %eax
2:  movl    %eax, HEADERS+8(%si)
    movl    $0, HEADERS+12(%si)
    # Descriptor of the header
    movzwl  %si, %eax
    addl    $HEADERS, %eax
    addl    BASE, %eax
    movl    %eax, DESCRIPTORS(%di)
    movl    $0, DESCRIPTORS+4(%di)
    movl    $16, DESCRIPTORS+8(%di)
    movw    $1, DESCRIPTORS+12(%di)     # there is a next one
    imulw   $3, %bx, %ax
    incw    %ax
    cmpw    $P_FLUSH, PHASE
    jne     3f
    incw    %ax
3:  movw    %ax, DESCRIPTORS+14(%di)
    # Descriptor of the data
    movzwl  %bx, %eax
    shll    $12, %eax
    addl    $DATA, %eax
    addl    BASE, %eax
    movl    %eax, DESCRIPTORS+16(%di)
    movl    $0, DESCRIPTORS+20(%di)
    movl    $BLOCK, DESCRIPTORS+24(%di)
    movw    $1, DESCRIPTORS+28(%di)
    cmpw    $P_READ, PHASE
    jne     4f
    movw    $3, DESCRIPTORS+28(%di)     # and the device writes it
4:  imulw   $3, %bx, %ax
    addw    $2, %ax
    movw    %ax, DESCRIPTORS+30(%di)
    # Descriptor of the status
    movzwl  %bx, %eax
    addl    $STATUSES, %eax
    addl    BASE, %eax
    movl    %eax, DESCRIPTORS+32(%di)
    movl    $0, DESCRIPTORS+36(%di)
    movl    $1, DESCRIPTORS+40(%di)
    movw    $2, DESCRIPTORS+44(%di)
    movw    $0, DESCRIPTORS+46(%di)
    movb    $0xff, STATUSES(%bx)
    # Into the ring
    movw    AVAIL, %si
    andw    $QUEUE_SIZE-1, %si
    shlw    $1, %si
    imulw   $3, %bx, %ax
    movw    %ax, AVAIL_RING(%si)
    incw    AVAIL
    # The data
    movw    %bx, %di
    shlw    $12, %di
    addw    $DATA, %di
    movw    $BLOCK/4, %cx
    cmpw    $P_READ, PHASE
    je      5f
    cmpw    $P_WRITE, PHASE
    je      6f
    ret
5:  xorl    %eax, %eax                  # what was there must not pass for what was read
    rep stosl
    ret
6:  call    first_word
7:  stosl
    addl    $WORD_STEP, %eax
    loop    7b
    ret

# eax: the first word of block NEXT_BLOCK + bx.
first_word:
    movzwl  NEXT_BLOCK, %eax
    addw    %bx, %ax
    imull   $BLOCK_STEP, %eax, %eax
    addl    SEED, %eax
    ret

# Compares what the batch has read with the pattern; carry set if it differs.
compare:
    pushw   %bx
    pushw   %si
    xorw    %bx, %bx
1:  movw    %bx, %si
    shlw    $12, %si
    addw    $DATA, %si
    call    first_word
    movl    %eax, %edx
    movw    $BLOCK/4, %cx
2:  lodsl
    cmpl    %edx, %eax
    jne     8f
    addl    $WORD_STEP, %edx
    loop    2b
    incw    %bx
    cmpw    IN_FLIGHT, %bx
    jb      1b
    popw    %si
    popw    %bx
    clc
    ret
8:  addw    NEXT_BLOCK, %bx
    movw    %bx, BAD_BLOCK
    popw    %si
    popw    %bx
    movw    $E_DATA, %ax
    call    give_up
    stc
    ret

# From whatever state the device is in to the one right before DRIVER_OK; carry set if that fails.
reset_device:
    movl    $0, %fs:R_STATUS
1:  pause
    cmpl    $0, %fs:R_STATUS
    jne     1b
    movw    $E_NO_DEVICE, %ax
    cmpl    $0x74726976, %fs:R_MAGIC
    jne     8f
    cmpl    $2, %fs:R_VERSION
    jne     8f
    cmpl    $2, %fs:R_DEVICE_ID
    jne     8f
    movl    $1, %fs:R_STATUS
    movl    $3, %fs:R_STATUS
    movl    $0, %fs:R_DRIVER_FEATURES_SEL
    movl    $0x200, %fs:R_DRIVER_FEATURES   # FLUSH
    movl    $1, %fs:R_DRIVER_FEATURES_SEL
    movl    $0x101, %fs:R_DRIVER_FEATURES   # VERSION_1 and RING_RESET
    movl    $0xb, %fs:R_STATUS
    movw    $E_FEATURES, %ax
    testl   $8, %fs:R_STATUS
    jz      8f
    call    set_queue
    clc
    ret
8:  call    give_up
    stc
    ret

# Describes queue 0 to the device, with empty rings.
set_queue:
    xorw    %ax, %ax
    movw    %ax, AVAIL_FLAGS
    movw    %ax, AVAIL_INDEX
    movw    %ax, USED_FLAGS
    movw    %ax, USED_INDEX
    movw    %ax, AVAIL
    movw    %ax, USED_SEEN
    movl    $0, %fs:R_QUEUE_SEL
    movl    $QUEUE_SIZE, %fs:R_QUEUE_NUM
    movl    BASE, %eax
    movl    %eax, %fs:R_QUEUE_DESC
    movl    $0, %fs:R_QUEUE_DESC_HIGH
    addl    $AVAIL_FLAGS, %eax
    movl    %eax, %fs:R_QUEUE_DRIVER
    movl    $0, %fs:R_QUEUE_DRIVER_HIGH
    addl    $USED_FLAGS-AVAIL_FLAGS, %eax
    movl    %eax, %fs:R_QUEUE_DEVICE
    movl    $0, %fs:R_QUEUE_DEVICE_HIGH
    movl    $1, %fs:R_QUEUE_READY
    ret

# Interrupts. Line 5 is disk 0's and comes as 0x25, line 10 is disk 1's and comes as 0x2a.
set_vectors:
    xorw    %ax, %ax
    movw    %ax, %ds
    movw    $(interrupt_0 - qcontext_guest_start), 0x25*4
    movw    %cs, 0x25*4+2
    movw    $(interrupt_1 - qcontext_guest_start), 0x2a*4
    movw    %cs, 0x2a*4+2
    ret

# Two 8259s, edge-triggered, from 0x20 and 0x28; all lines off but 2 (the second one), 5 and 10.
set_pic:
    movb    $0x11, %al
    outb    %al, $0x20
    outb    %al, $0xa0
    movb    $0x20, %al
    outb    %al, $0x21
    movb    $0x28, %al
    outb    %al, $0xa1
    movb    $4, %al
    outb    %al, $0x21
    movb    $2, %al
    outb    %al, $0xa1
    movb    $1, %al
    outb    %al, $0x21
    outb    %al, $0xa1
    movb    $0xdb, %al
    outb    %al, $0x21
    movb    $0xfb, %al
    outb    %al, $0xa1
    ret

interrupt_0:
    pushl   %eax
    pushl   %edx
    pushw   %ds
    pushw   %fs
    movw    $0x1000, %ax
    call    acknowledge
    jc      1f
    movb    $0x20, %al
    outb    %al, $0x20
1:  popw    %fs
    popw    %ds
    popl    %edx
    popl    %eax
    iretw

interrupt_1:
    pushl   %eax
    pushl   %edx
    pushw   %ds
    pushw   %fs
    movw    $0x2000, %ax
    call    acknowledge
    jc      1f
    movb    $0x20, %al
    outb    %al, $0xa0
    outb    %al, $0x20
1:  popw    %fs
    popw    %ds
    popl    %edx
    popl    %eax
    iretw

# Counts and acknowledges an interrupt of the disk in segment ax; carry set if the PIC is to hear nothing of it.
acknowledge:
    movw    %ax, %ds
    rdtsc
    movl    %eax, INTERRUPTED
    movl    %edx, INTERRUPTED+4
    movw    $1, IS_INTERRUPTED
    incl    INTERRUPTS
    testw   $NO_ACK, FLAGS
    jnz     1f
    movw    REGISTERS, %ax
    movw    %ax, %fs
    movl    %fs:R_INTERRUPT_STATUS, %eax
    movl    %eax, %fs:R_INTERRUPT_ACK
1:  testw   $NO_EOI, FLAGS
    jnz     2f
    clc
    ret
2:  stc
    ret

    .globl qcontext_guest_end
qcontext_guest_end:
    .code64
    .text
