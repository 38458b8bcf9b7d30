//! The texts of `--help`, `--version` and `help` among options.
#![forbid(unsafe_code)]

use std::fmt::Write;

use qcontext::object::{Options, types};

/// Where the user finds more.
pub(super) const HINT: &str = "Try 'qctx --help' for more information.";

const USAGE: &str = "\
qctx: virtual devices on named event loops, and a machine for them

Show what it can do:
  qctx                          run a small built-in guest on KVM, which drives two disks on two contexts. Exit status 0
                                if every byte was right. Without KVM, a driver in the process takes the guest's place
Serve:
  qctx OPTION...                create what the options describe, and serve it until 'quit' or SIGTERM
Query a running qctx:
  qctx qom-list [-s SOCKET] PATH            list properties, and children with a '/'
  qctx qom-get [-s SOCKET] PATH.PROPERTY    print a property
  qctx qom-set [-s SOCKET] PATH.PROPERTY VALUE
                                            change a property
  qctx qom-tree [-s SOCKET] [PATH]          print everything below PATH, '/' by default

Options (one or two dashes, in any order; objects are created first, monitors last):
  -object qcontext,id=ID[,threaded=on|off][,poll-max-ns=N][,poll-grow=N][,poll-shrink=N]
          [,thread-pool-min=N][,thread-pool-max=N][,poller=auto|epoll|io_uring|poll][,cpu-affinity=N|N-M]...
          [,nice=N][,sched-policy=other|batch|idle|fifo:N|rr:N]
                 a named event loop, by default without a thread of its own. It waits with 'poller'; if the kernel
                 does not offer that, with epoll. Its thread, and the workers that it starts, run on the CPUs of
                 'cpu-affinity', which may be repeated, with that nice value and policy (sched(7)).
                 'qcontext-main' always exists
  -object iothread,id=ID[,poll-max-ns=N][,poll-grow=N][,poll-shrink=N][,thread-pool-min=N][,thread-pool-max=N]
          [,cpu-affinity=N|N-M]...[,nice=N][,sched-policy=POLICY]
                 the same with a thread of its own
  -object tls-creds-x509,id=ID,dir=PATH[,endpoint=client|server][,verify-peer=on|off][,sanity-check=on|off]
                 certificates for TLS with the file names of QEMU: ca-cert.pem, ca-crl.pem, and client-cert.pem and
                 client-key.pem or server-cert.pem and server-key.pem. A server with 'verify-peer=off' asks its clients
                 for no certificate. With 'sanity-check=off' the own one may be old, or of another authority
  -object throttle-group,id=ID[,limits.LIMIT=N...]
                 limits per second, shared by the nodes that name the group: iops-total, iops-read, iops-write,
                 bps-total, bps-read, bps-write, each also with -max and -max-length for a burst, and iops-size
  -drive if=none,id=ID,file=PATH,format=raw|qcow2|vdi|vhdx|vmdk[,aio=io_uring|threads]
        [,cache=writeback|none|writethrough|directsync][,cache.direct=on|off][,read-only=on|off]
        [,discard=unmap|ignore][,locking=auto|on|off][,detect-zeroes=off|on|unmap][,copy-on-read=on|off]
        [,throttling.LIMIT=N...][,throttling.group=ID][,rerror=report|ignore|stop]
        [,werror=report|ignore|stop|enospc]
                 a disk image. 'rerror' and 'werror' say what is done about failed reads and about other failed
                 requests of a guest: it gets the error or does not, or is stopped until the QMP command 'cont', which
                 repeats the request; with 'enospc', the default of 'werror', only if there is no space
  -blockdev driver=file,node-name=NAME,filename=PATH[,aio=...][,cache.direct=...][,read-only=...][,discard=...]
        [,locking=...][,auto-read-only=on|off][,force-share=on|off][,detect-zeroes=off|on|unmap]
  -blockdev driver=raw,node-name=NAME,file=NAME[,read-only=on|off][,offset=SIZE][,size=SIZE]
  -blockdev driver=null-co,node-name=NAME[,size=SIZE][,read-zeroes=on|off]
  -blockdev driver=qcow2,node-name=NAME,file=NAME[,backing=NAME][,data-file=NAME][,read-only=on|off]
  -blockdev driver=vdi|vhdx|vmdk,node-name=NAME,file=NAME,read-only=on
  -blockdev driver=blkdebug,node-name=NAME,image=NAME[,inject-error.N.event=EVENT[,inject-error.N.errno=N]...][,align=N]
        [,set-state.N...][,x-inject-delay.N.event=EVENT,x-inject-delay.N.ns=N...][,take-child-perms.N=PERMISSION]
  -blockdev driver=copy-before-write,node-name=NAME,file=NAME,target=NAME
        [,on-cbw-error=break-guest-write|break-snapshot][,cbw-timeout=SECONDS][,min-cluster-size=SIZE]
  -blockdev driver=snapshot-access,node-name=NAME,file=NAME
  -blockdev driver=copy-on-read,node-name=NAME,file=NAME[,bottom=NAME]
  -blockdev driver=throttle,node-name=NAME,throttle-group=ID,file=NAME
  -blockdev driver=nbd,node-name=NAME,server.type=unix,server.path=PATH[,export=NAME]
  -blockdev driver=nbd,node-name=NAME,server.type=inet,server.host=HOST,server.port=PORT[,export=NAME]
        [,server.ipv4=on|off][,server.ipv6=on|off][,server.numeric=on|off][,server.keep-alive=on|off]
  -blockdev driver=nbd,node-name=NAME,server.type=fd,server.str=FD[,export=NAME]
        [,tls-creds=ID][,tls-hostname=NAME][,reconnect-delay=SECONDS][,open-timeout=SECONDS]
        [,read-only=on|off][,auto-read-only=on|off]
                 a block device node: a file, an image in another node, no data at all, for measuring, another node
                 whose requests fail or wait, for tests, or wait for a throttle group, or the export of an NBD server.
                 The other node may be described in place: 'file.driver=file,file.filename=PATH'
  -image-folder PATH
                 the files that images name (backing files, data files, extents) are opened only below this folder, or
                 below another one that is given so
  -device virtio-blk,id=ID,drive=ID[,vhost-user=PATH][,x-data-plane=on[,context=ID]][,num-queues=N][,queue-size=N]
        [,serial=TEXT][,ioeventfd=on|off][,irqfd=on|off][,logical_block_size=SIZE][,physical_block_size=SIZE]
        [,min_io_size=SIZE][,opt_io_size=SIZE][,discard_granularity=SIZE]
        [,rerror=report|ignore|stop|enospc|auto][,werror=report|ignore|stop|enospc|auto]
                 a disk for the machine of -machine or, with 'vhost-user', for virtual machines that connect to the
                 Unix socket PATH. 'drive' is the id of a -drive or a node-name. With x-data-plane=on the context that
                 'context' names serves it; otherwise 'qcontext-main' does.
                 'rerror' and 'werror' count more than those of the drive. '-device virtio-blk,help' lists the options
  -export [type=]vhost-user-blk,id=ID,node-name=NAME,addr.type=unix,addr.path=PATH[,writable=on|off][,num-queues=N]
        [,logical-block-size=N][,iothread=ID]
  -export [type=]vhost-user-blk,id=ID,node-name=NAME,addr.type=fd,addr.str=FD[,...]
                 a node as a disk for virtual machines that connect to the Unix socket PATH, or to a listening socket
                 that the program inherits. It is read-only unless there is 'writable=on'. 'iothread' is the id of a
                 context
  -export [type=]fuse,id=ID,node-name=NAME,mountpoint=FILE[,writable=on|off][,growable=on|off]
        [,allow-other=on|off|auto][,iothread=ID]
                 a node as a file, which is mounted over the regular file FILE. With 'growable=on' writes beyond its end
                 make the node longer. With 'allow-other=on' other users may open it, with 'auto' if that is possible
  -nbd-server addr.type=unix,addr.path=PATH[,tls-creds=ID][,max-connections=N]
        [,handshake-max-seconds=N]
  -nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT[,addr.to=PORT][,addr.ipv4=on|off][,addr.ipv6=on|off][,...]
  -nbd-server addr.type=fd,addr.str=FD[,...]
                 an NBD server at a Unix socket, a TCP port, the first free one up to 'to', or a listening socket that
                 the program inherits. By default it serves 100 connections, and a negotiation may take 10 seconds; 0
                 stands for no limit. With 'tls-creds' it talks under TLS only
  -export [type=]nbd,id=ID,node-name=NAME[,name=NAME][,description=TEXT][,writable=on|off][,allocation-depth=on|off]
        [,iothread=ID]
                 a node for the clients of the NBD server, under the name of the node or another one
  -qmp unix:PATH,server=on,wait=off
                 a QMP monitor at a Unix socket, which is created after everything else
  -qmp stdio     a QMP monitor on standard input and output
  -chardev socket,id=ID,path=PATH[,server=on[,wait=off]][,reconnect-ms=N]
  -chardev socket,id=ID,host=HOST,port=PORT[,server=on[,wait=off]][,reconnect-ms=N]
  -chardev stdio,id=ID
                 the other side of a -monitor: a socket that connects or, with 'server=on', listens, or standard input
                 and output. The program waits for a client of a listening socket unless there is 'wait=off'
  -monitor [chardev=]ID[,mode=control][,pretty=on|off]
                 a QMP monitor on a -chardev
  -pidfile PATH  a file that has the process id while everything is ready
  -daemonize     the program goes into the background when everything is ready
  -machine microvm
                 a machine on KVM that boots a kernel; the program ends when the guest powers off
  -m SIZE        its memory, in MiB or with a suffix (k, M, G); default: 128
  -smp N         its processors; default: 1
  -kernel FILE   its kernel: a bzImage, or an ELF file
  -initrd FILE   the initial RAM disk
  -append TEXT   the kernel's command line
  -serial stdio|file:PATH|none
                 the other end of its serial port; default: standard input and output
  -no-reboot     a reset ends the program
  -S             the machine waits for the QMP command 'cont' before its first instruction
  -h, --help     this text; '-object help' and '-object TYPE,help' print more
  -V, --version  the version

  A value ends at a comma; ',,' in a value stands for a comma. A value that begins with '{' is JSON.

Client options:
  -s, --socket SOCKET   the QMP socket; default: the environment variable QMP_SOCKET

Example:
  qctx -object qcontext,id=ctx1,threaded=yes \\
       -drive if=none,id=d0,file=disk0.raw,format=raw \\
       -device virtio-blk,id=disk0,drive=d0,x-data-plane=on,context=ctx1,vhost-user=disk0.sock \\
       -qmp unix:qmp.sock,server=on,wait=off
  qctx qom-get -s qmp.sock /objects/ctx1.thread_id
";

/// `--help`
pub(super) fn text() -> String {
    USAGE.to_owned()
}

/// `--version`
pub(super) fn version() -> String {
    concat!("qctx ", env!("CARGO_PKG_VERSION"), "\n").to_owned()
}

/// `-object help`, `-object TYPE,help`, `-device help`
pub(super) fn of(option: &str, options: &Options) -> String {
    let (key, parent) = match option {
        "object" => ("qom-type", None),
        "device" => ("driver", Some("device")),
        _ => return text(),
    };
    match options.peek(key).and_then(types::find) {
        Some(found) => describe(&found),
        None => list(parent),
    }
}

fn list(parent: Option<&str>) -> String {
    let (title, types) = match parent {
        Some(parent) => ("List of devices:\n", types::implementing(parent)),
        None => ("List of user creatable objects:\n", types::list()),
    };
    let mut text = title.to_owned();
    for one in types {
        if one.create.is_some() || parent.is_some() {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "  {}", one.name);
        }
    }
    text
}

fn describe(found: &types::Type) -> String {
    let mut text = format!("{} options:\n", found.name);
    for (name, type_name) in &found.options {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {name}=<{type_name}>");
    }
    text
}
