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

use case::{Case, Target};
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

fn measure_target(target: Target, cases: &[Case]) -> Result<()> {
    let image = target.prepare()?;
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
