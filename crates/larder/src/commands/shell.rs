//! `completions` and `man`: what a package installs beside the program.

use std::fs::{File, OpenOptions};

use clap::CommandFactory;
use clap_mangen::roff::{Roff, roman};
use larder_daemon::Failure;

use crate::args::{Completions, Larder, Man};
use crate::exit::Exit;
use crate::{say, topics};

pub fn completions(args: &Completions) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Larder::command(), "larder", &mut script);
    say::raw(&script);
    Ok(Exit::Done)
}

pub fn man(args: &Man) -> Result<Exit, Failure> {
    let write = || {
        std::fs::create_dir_all(&args.dir)?;
        clap_mangen::generate_to(Larder::command(), &args.dir)?;
        let mut page = OpenOptions::new()
            .append(true)
            .open(args.dir.join("larder.1"))?;
        topics(&mut page)
    };
    write().map_err(|e| Failure::io("write the manual pages into", &args.dir, e))?;
    say::out(format_args!(
        "Wrote the manual pages into {}.",
        args.dir.display()
    ));
    Ok(Exit::Done)
}

/// Adds what is to be known besides the commands.
fn topics(page: &mut File) -> std::io::Result<()> {
    for topic in &topics::TOPICS {
        let mut roff = Roff::new();
        roff.control("SH", [topic.title]);
        roff.control("nf", []);
        roff.text([roman(topic.text)]);
        roff.control("fi", []);
        roff.to_writer(page)?;
    }
    Ok(())
}
