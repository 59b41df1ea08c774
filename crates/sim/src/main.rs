//! `larder-sim --seeds N [--from S] [--planted BUG]`, `larder-sim shorten --seed S`, and `larder-sim
//! one --seed S [--without STEPS] [--planted BUG] [--tell] [--keep] [--trace FILE]`, which is one run and prints its trace.

use anyhow::{Context, Result, bail};
use larder_sim::seeds::Runner;
use larder_sim::{Planted, Run};

fn main() -> Result<()> {
    let mut line = String::with_capacity(8192);
    for word in std::env::args().skip(1) {
        line.push_str(&word);
        line.push(' ');
    }
    let mut rest = line.split_whitespace().peekable();
    let (is_one, is_shorten) = (rest.peek() == Some(&"one"), rest.peek() == Some(&"shorten"));
    if is_one || is_shorten {
        rest.next();
    }
    let mut run = Run::default();
    let mut seeds = 1000;
    while let Some(word) = rest.next() {
        let mut value = || rest.next().with_context(|| format!("{word} needs a value"));
        match word {
            "--seed" | "--from" => run.seed = value()?.parse()?,
            "--seeds" => seeds = value()?.parse()?,
            "--without" => {
                let numbers = value()?.split(',').map(str::parse);
                run.without = numbers.collect::<Result<_, _>>()?;
            }
            "--planted" => run.planted = planted(value()?)?,
            "--trace" => run.trace = Some(value()?.into()),
            "--keep" => run.is_kept = true,
            "--tell" => run.is_told = true,
            other => bail!("There is no `{other}`."),
        }
    }
    if is_one {
        larder_sim::run(&run);
    }
    let runner = Runner {
        program: std::env::current_exe()?,
    };
    if is_shorten {
        return runner.tell(run.seed, run.planted);
    }
    let at_once = std::thread::available_parallelism().map_or(2, usize::from);
    let failed = runner.run_all(run.seed, seeds, run.planted, at_once)?;
    if failed > 0 {
        std::process::exit(1);
    }
    Ok(())
}

fn planted(name: &str) -> Result<Planted> {
    let found = Planted::ALL.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, bug)| *bug)
        .with_context(|| format!("There is no bug {name} to plant."))
}
