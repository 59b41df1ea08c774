//! `doctor`: what is wrong, and what to do.

use larder_daemon::{Failure, Finding, Level, examine};

use super::{Machine, on_runtime};
use crate::args::Doctor;
use crate::exit::Exit;
use crate::say;
use crate::table::{Side, Table};

pub fn run(machine: Machine, args: &Doctor) -> Result<Exit, Failure> {
    let volumes = match machine.volume {
        // A volume whose settings make no sense cannot be located, and is looked at too.
        None => machine.home.volumes()?,
        Some(_) => vec![machine.locate(&[])?.replica.volume],
    };
    let findings = on_runtime(async { Ok(examine(&machine.home, &volumes).await) })?;
    match args.json {
        true => say::json(&findings)?,
        false => lines(&findings).iter().for_each(say::out),
    }
    let errors = findings.iter().any(|finding| finding.level == Level::Error);
    Ok(Exit::look_if(errors))
}

fn lines(findings: &[Finding]) -> Vec<String> {
    let mut table = Table::new(&[Side::Left, Side::Left, Side::Left]);
    for finding in findings {
        let level = match finding.level {
            Level::Ok => "ok",
            Level::Warning => "WARNING",
            Level::Error => "ERROR",
        };
        table.row([level.into(), finding.check.clone(), finding.message.clone()]);
        if let Some(remedy) = &finding.remedy {
            table.row([String::new(), String::new(), format!("-> {remedy}")]);
        }
    }
    table.lines().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_stands_with_its_remedy() {
        let finding = |level, remedy: Option<&str>| Finding {
            level,
            check: "key".into(),
            message: "Others may read it.".into(),
            remedy: remedy.map(str::to_owned),
        };
        let findings = [
            finding(Level::Ok, None),
            finding(Level::Error, Some("chmod 600 key")),
        ];
        let expected = [
            "ok     key  Others may read it.",
            "ERROR  key  Others may read it.",
            "            -> chmod 600 key",
        ];
        assert_eq!(lines(&findings), expected);
    }
}
