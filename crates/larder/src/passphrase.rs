//! Where a passphrase or a recovery key comes from: a file, else the terminal.

use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use larder_daemon::Failure;
use zeroize::Zeroizing;

/// A secret that the user knows.
pub type Words = Zeroizing<String>;

/// The longest file that is taken for one secret.
const LONGEST_BYTES: u64 = 64 << 10;

/// A new passphrase: the first line of `file`, else asked for twice.
pub fn new(file: Option<&Path>) -> Result<Words, Failure> {
    if let Some(file) = file {
        return first_line(file, "passphrase");
    }
    let first = ask("Passphrase for the new volume: ", "passphrase")?;
    let second = ask("The same again: ", "passphrase")?;
    if *first != *second {
        return Err(Failure::failed("The two passphrases differ."));
    }
    Ok(first)
}

/// A passphrase: the first line of `file`, else asked for.
pub fn known(file: Option<&Path>) -> Result<Words, Failure> {
    match file {
        Some(file) => first_line(file, "passphrase"),
        None => ask("Passphrase of the volume: ", "passphrase"),
    }
}

/// A recovery key: the first line of `file`, else asked for.
pub fn recovery_key(file: Option<&Path>) -> Result<Words, Failure> {
    match file {
        Some(file) => first_line(file, "recovery key"),
        None => ask("Recovery key of the volume: ", "recovery key"),
    }
}

fn ask(prompt: &str, what: &str) -> Result<Words, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(
            Failure::usage(format!("There is no terminal to ask for the {what} on.")).hint(
                match what {
                    "passphrase" => "Hand it in with --passphrase-file or LARDER_PASSPHRASE_FILE.",
                    _ => "Hand it in with --recovery-key-file.",
                },
            ),
        );
    }
    let words = rpassword::prompt_password(prompt)
        .map_err(|e| Failure::failed(format!("The {what} could not be read: {e}.")))?;
    some(Words::new(words), what)
}

fn first_line(file: &Path, what: &str) -> Result<Words, Failure> {
    let mut text = Words::default();
    let read = match file.as_os_str() == "-" {
        true => std::io::stdin()
            .take(LONGEST_BYTES)
            .read_to_string(&mut text),
        false => File::open(file).and_then(|f| f.take(LONGEST_BYTES).read_to_string(&mut text)),
    };
    read.map_err(|e| Failure::io("read", file, e))?;
    let line = text.lines().next().unwrap_or_default();
    some(Words::new(line.to_owned()), what)
}

fn some(words: Words, what: &str) -> Result<Words, Failure> {
    if words.is_empty() {
        return Err(Failure::usage(format!("The {what} is empty.")));
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_first_line_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        for (text, words) in [
            ("correct horse\n", Some("correct horse")),
            (" spaces stay \r\nnot this", Some(" spaces stay ")),
            ("", None),
            ("\nlater", None),
        ] {
            std::fs::write(&path, text).unwrap();
            let got = new(Some(&path)).ok();
            assert_eq!(got.as_ref().map(|w| w.as_str()), words);
        }
    }
}
