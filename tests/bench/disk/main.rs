//! Disks served by `qctx` against the same disks served by qemu-storage-daemon.
//!
//! Both run at the same time and are loaded in turns, slice by slice, so that whatever else the
//! machine does hits both; the figures are medians of the slices. Words on the command line choose
//! cases: `cargo bench --bench disk -- null poll`.
#![deny(unsafe_code)] // load.rs allows itself one mapping

mod case;
mod load;
mod servers;
mod table;

use std::error::Error;

use case::{Case, Image, Target};
use load::Slice;
use servers::{Kind, Server};
use table::Row;

/// Slices of each server and case.
const ROUNDS: usize = 5;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Loads the servers in turns, the one that begins changing with the round.
fn measure(case: &Case, servers: &[Server]) -> Result<Vec<Vec<Slice>>> {
    let mut slices = vec![Vec::new(); servers.len()];
    for round in 0..ROUNDS {
        for turn in 0..servers.len() {
            let index = (round + turn) % servers.len();
            slices[index].push(load::run(&servers[index], case)?);
        }
    }
    Ok(slices)
}

/// The same with an image and a server for each slice.
fn measure_anew(case: &Case, image: &mut Image) -> Result<Vec<Vec<Slice>>> {
    let peer = Server::start(Kind::Peer, case.target, Some(image));
    let kinds: &[Kind] = match peer.map(drop) {
        Ok(()) => &[Kind::Qctx, Kind::Peer],
        Err(reason) => {
            println!("SKIP: comparison of {}: {reason}", case.target);
            &[Kind::Qctx]
        }
    };
    let mut slices = vec![Vec::new(); kinds.len()];
    for round in 0..ROUNDS {
        for turn in 0..kinds.len() {
            let index = (round + turn) % kinds.len();
            case.target.renew(image)?;
            let server = Server::start(kinds[index], case.target, Some(image))?;
            slices[index].push(load::run(&server, case)?);
        }
    }
    Ok(slices)
}

fn measure_target(target: Target, cases: &[Case]) -> Result<()> {
    let mut image = target.prepare()?;
    if let Some(image) = image.as_mut().filter(|_| target.is_used_up()) {
        for case in cases {
            println!("{}", Row::new(case, &measure_anew(case, image)?));
        }
        return Ok(());
    }
    let mut servers = vec![Server::start(Kind::Qctx, target, image.as_ref())?];
    match Server::start(Kind::Peer, target, image.as_ref()) {
        Ok(peer) => servers.push(peer),
        Err(reason) => println!("SKIP: comparison of {target}: {reason}"),
    }
    for case in cases {
        let slices = measure(case, &servers)?;
        println!("{}", Row::new(case, &slices));
    }
    Ok(())
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with('-'))
        .collect();
    let _directory = servers::enter_directory()?;
    println!("{}", table::HEADER);
    for target in Target::ALL {
        let cases: Vec<Case> = Case::all(target)
            .into_iter()
            .filter(|case| case.is_chosen(&words))
            .collect();
        if !cases.is_empty() {
            measure_target(target, &cases)?;
        }
    }
    Ok(())
}
