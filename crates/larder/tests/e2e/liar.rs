//! A line to an HTTP server, one request for each connection, that lies.
//!
//! It stands between the program and a right server, and does to some requests what bad
//! servers, proxies and networks do. The same seed and the same order of requests give the
//! same lies.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is done to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lie {
    /// The answer is 500, and the server never sees it.
    ServerError,
    /// It is done, but the answer is 503.
    LostAnswer,
    /// The line breaks in the middle of the request or of the answer.
    Broken,
    /// It comes late.
    Late,
    /// Bits all over the answer's body are turned.
    WrongBytes,
    /// The answer's body and its length are short.
    Short,
    /// The answer says that nothing is there.
    Missing,
}

/// Which lies are told, and how often.
#[derive(Debug, Clone, Default)]
pub struct Mood {
    pub lies: Vec<Lie>,
    /// One request in so many; 1: each.
    pub one_in: u64,
    /// Only requests of this method, if given.
    pub method: Option<&'static str>,
}

#[derive(Debug)]
struct Shared {
    server: SocketAddr,
    mood: Mutex<Mood>,
    seen: AtomicU64,
    told: AtomicU64,
    ended: AtomicBool,
}

pub struct Liar {
    socket: SocketAddr,
    shared: Arc<Shared>,
}

impl Liar {
    /// A line to `server` that is honest so far.
    pub fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server,
            mood: Mutex::default(),
            seen: AtomicU64::new(0),
            told: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if serving.ended.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&serving);
                std::thread::spawn(move || {
                    // A line that breaks by itself is what this is for.
                    let _ = carry(near, &shared);
                });
            }
        });
        Self { socket, shared }
    }

    pub fn socket(&self) -> SocketAddr {
        self.socket
    }

    pub fn tell(&self, mood: Mood) {
        *self.shared.mood.lock().unwrap() = mood;
    }

    pub fn be_honest(&self) {
        self.tell(Mood::default());
    }

    /// How many lies were told.
    pub fn told(&self) -> u64 {
        self.shared.told.load(Ordering::SeqCst)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.socket);
    }
}

impl Shared {
    fn lie_for(&self, method: &str) -> Option<(Lie, u64)> {
        let mood = self.mood.lock().unwrap();
        if mood.lies.is_empty() || mood.method.is_some_and(|only| only != method) {
            return None;
        }
        let random = mixed(self.seen.fetch_add(1, Ordering::SeqCst));
        if !random.is_multiple_of(mood.one_in.max(1)) {
            return None;
        }
        self.told.fetch_add(1, Ordering::SeqCst);
        let which = (random >> 32) as usize % mood.lies.len();
        Some((mood.lies[which], random))
    }
}

/// A number that looks random (SplitMix64, by Steele, Lea and Flood).
fn mixed(n: u64) -> u64 {
    let n = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Head and body of a request or an answer.
struct Message {
    head: String,
    body: Vec<u8>,
}

fn carry(mut near: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut head = read_head(&mut near)?;
    let method = head.split(' ').next().unwrap_or_default().to_owned();
    let lie = shared.lie_for(&method);
    if header(&head, "expect").is_some() {
        near.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let body = read_body(&mut near, &head, false)?;
    match lie {
        Some((Lie::ServerError, _)) => return answer(&mut near, "500 Internal Server Error"),
        Some((Lie::Missing, _)) => return answer(&mut near, "404 Not Found"),
        Some((Lie::Late, _)) => std::thread::sleep(Duration::from_millis(1500)),
        _ => {}
    }
    let mut far = TcpStream::connect(shared.server)?;
    close_after(&mut head);
    far.write_all(head.as_bytes())?;
    if let Some((Lie::Broken, random)) = lie
        && random & (1 << 20) == 0
    {
        far.write_all(&body[..body.len() / 2])?;
        let _ = far.shutdown(Shutdown::Both);
        return near.shutdown(Shutdown::Both);
    }
    far.write_all(&body)?;
    let mut head = read_head(&mut far)?;
    let body = match method.as_str() {
        "HEAD" => Vec::new(),
        _ => read_body(&mut far, &head, true)?,
    };
    close_after(&mut head);
    reply(&mut near, Message { head, body }, lie)
}

fn reply(near: &mut TcpStream, mut answered: Message, lie: Option<(Lie, u64)>) -> io::Result<()> {
    match lie {
        Some((Lie::LostAnswer, _)) => return answer(near, "503 Service Unavailable"),
        Some((Lie::WrongBytes, random)) if !answered.body.is_empty() => {
            let first = random as usize % answered.body.len().min(1000);
            for byte in answered.body[first..].iter_mut().step_by(1000) {
                *byte ^= 1 << (random >> 61);
            }
        }
        Some((Lie::Short, _)) if answered.body.len() > 1 => {
            let short = answered.body.len() * 2 / 3;
            answered.body.truncate(short);
            set_length(&mut answered.head, short);
        }
        Some((Lie::Broken, _)) => {
            near.write_all(answered.head.as_bytes())?;
            near.write_all(&answered.body[..answered.body.len() / 2])?;
            return near.shutdown(Shutdown::Both);
        }
        _ => {}
    }
    near.write_all(answered.head.as_bytes())?;
    near.write_all(&answered.body)?;
    near.shutdown(Shutdown::Write)
}

fn answer(near: &mut TcpStream, status: &str) -> io::Result<()> {
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    near.write_all(text.as_bytes())?;
    near.shutdown(Shutdown::Write)
}

fn read_head(from: &mut TcpStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        from.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    String::from_utf8(head).map_err(io::Error::other)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The body as it lies on the line; chunked ones with their frames.
fn read_body(from: &mut TcpStream, head: &str, until_end: bool) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if until_end && header(head, "content-length").is_none() {
        from.read_to_end(&mut body)?;
        return Ok(body);
    }
    if header(head, "transfer-encoding").is_some() {
        let mut byte = [0];
        while !body.ends_with(b"0\r\n\r\n") {
            from.read_exact(&mut byte)?;
            body.push(byte[0]);
        }
        return Ok(body);
    }
    let length = header(head, "content-length").and_then(|text| text.parse().ok());
    body.resize(length.unwrap_or(0), 0);
    from.read_exact(&mut body)?;
    Ok(body)
}

fn close_after(head: &mut String) {
    let kept = head
        .trim_end()
        .lines()
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    *head = kept
        .chain(["connection: close", "", ""])
        .collect::<Vec<_>>()
        .join("\r\n");
}

fn set_length(head: &mut String, length: usize) {
    let line = format!("content-length: {length}");
    let lines =
        head.lines().map(
            |old| match old.to_ascii_lowercase().starts_with("content-length:") {
                true => line.as_str(),
                false => old,
            },
        );
    *head = lines.collect::<Vec<_>>().join("\r\n") + "\r\n\r\n";
    while head.ends_with("\r\n\r\n\r\n") {
        head.truncate(head.len() - 2);
    }
}
