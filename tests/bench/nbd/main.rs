//! Disks that `qctx` offers over NBD, against the same disks offered by qemu-storage-daemon and nbdkit.
//!
//! All run at the same time and are loaded in turns, slice by slice; the figures are medians of the slices. The client is one
//! thread with one connection to a Unix socket. It keeps so many reads of 4 KiB at random offsets under way, and answers
//! several replies with one call. Words on the command line choose disks: `cargo bench --bench nbd -- null`.
#![forbid(unsafe_code)]

mod load;
mod servers;

use std::error::Error;

use load::{Connection, Slice};
use servers::{Disk, Kind, Server};

/// Slices of each server and depth.
const ROUNDS: usize = 7;
const DEPTHS: [usize; 3] = [1, 32, 64];

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Requests per second, and processor time of the server in microseconds per request.
fn figures(slices: &[Slice]) -> (f64, f64) {
    let rate = slices.iter().map(|slice| slice.requests / slice.seconds);
    let cost = slices
        .iter()
        .map(|slice| slice.cpu_seconds * 1e6 / slice.requests);
    (median(rate.collect()), median(cost.collect()))
}

fn measure(disk: Disk) -> Result<()> {
    let image = disk.prepare()?;
    let mut servers = Vec::new();
    for kind in Kind::ALL {
        match Server::start(kind, disk, image.path()) {
            Ok(server) => servers.push(server),
            Err(reason) => println!("SKIP: {kind:?} with {disk:?}: {reason}"),
        }
    }
    for depth in DEPTHS {
        let mut slices: Vec<Vec<Slice>> = servers.iter().map(|_| Vec::new()).collect();
        for round in 0..ROUNDS {
            for turn in 0..servers.len() {
                let index = (round + turn) % servers.len();
                let server = &servers[index];
                let mut connection = Connection::open(&server.socket)?;
                slices[index].push(connection.load(depth, || server.cpu_seconds())?);
            }
        }
        let peer = servers.iter().position(|server| server.kind == Kind::Qemu);
        for (server, own) in servers.iter().zip(&slices) {
            let (rate, cost) = figures(own);
            let (peer_rate, peer_cost) = peer.map_or((rate, cost), |peer| figures(&slices[peer]));
            println!(
                "{disk:?} depth {depth:>2} {:>5?}: {:>8.0} IOPS ({:.2} of q-s-d), {cost:>6.2} us ({:.2})",
                server.kind,
                rate,
                rate / peer_rate,
                cost / peer_cost,
            );
        }
    }
    Ok(())
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    for disk in Disk::ALL {
        let name = format!("{disk:?}").to_lowercase();
        if words.is_empty() || words.contains(&name) {
            measure(disk)?;
        }
    }
    Ok(())
}
