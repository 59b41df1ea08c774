//! `adopt`: an existing directory becomes part of the volume.

use larder_daemon::{Adopt as AdoptOp, Failure, TreePath};

use super::{Machine, ask, say_kept};
use crate::args::Adopt;
use crate::exit::Exit;
use crate::{say, units};

pub fn run(machine: Machine, args: &Adopt) -> Result<Exit, Failure> {
    let source = args
        .dir
        .canonicalize()
        .map_err(|e| Failure::io("find", &args.dir, e))?;
    let located = machine.locate_dir(args.to.as_ref())?;
    let name = source
        .file_name()
        .map(std::os::unix::ffi::OsStrExt::as_bytes);
    let target = match (located.paths.first(), name) {
        (Some(target), _) if args.to.is_some() => target.clone(),
        (_, Some(name)) => name.to_vec(),
        (_, None) => {
            return Err(Failure::usage("The root directory cannot be adopted."));
        }
    };
    let adopted = ask(&located, AdoptOp::new(&source, TreePath(target)))?;
    if args.json {
        say::json(&adopted)?;
    } else {
        say::out(format_args!(
            "Adopted {} as {}: {}, {}, {}.",
            args.dir.display(),
            adopted.path,
            say::count(adopted.files, "file"),
            say::count(adopted.directories, "directory"),
            units::size(adopted.bytes),
        ));
        if !adopted.kept.is_empty() {
            say::out(format_args!(
                "Left {} where it was:",
                say::count(adopted.kept.len() as u64, "file")
            ));
            say_kept(&adopted.kept);
        }
    }
    Ok(Exit::look_if(!adopted.kept.is_empty()))
}
