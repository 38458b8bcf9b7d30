//! A terminal: both sides of a pseudoterminal.
#![forbid(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

/// The side of the one who types, and the side of the program. It controls no session yet.
pub fn terminal() -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    let mut how = OpenOptions::new();
    how.read(true).write(true);
    let slave = how.custom_flags(OFlags::NOCTTY.bits().cast_signed());
    (File::from(master), slave.open(name).unwrap())
}
