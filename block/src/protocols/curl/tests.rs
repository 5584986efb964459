use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_executor::block_on;
use futures_util::future::join_all;

use super::*;
use crate::Node;

/// How a server behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Good,
    RefusesRanges,
    SaysNoLength,
    IsMissing,
    IgnoresRanges,
    SendsAnotherRange,
    SendsLess,
    SendsForEver,
    SendsNothing,
    GoesAway,
}

/// A server with one file, until it is dropped.
struct Server {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
}

const LENGTH: usize = 3_000_001;

fn content() -> Vec<u8> {
    (0..LENGTH as u32).map(|at| (at / 251 + at) as u8).collect()
}

impl Server {
    fn start(serve: impl Fn(TcpStream, &AtomicUsize) + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server =
            Server { address: listener.local_addr().unwrap(), is_over: Arc::default(), requests: Arc::default() };
        let (is_over, requests, serve) = (server.is_over.clone(), server.requests.clone(), Arc::new(serve));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if is_over.load(Ordering::Acquire) {
                    break;
                }
                let (serve, requests) = (serve.clone(), requests.clone());
                std::thread::spawn(move || serve(stream, &requests));
            }
        });
        server
    }

    fn http(manner: Manner) -> Server {
        let content = Arc::new(content());
        Server::start(move |stream, requests| {
            let _ = serve_http(stream, manner, &content, requests);
        })
    }

    fn open(&self, change: impl FnOnce(&mut CurlOptions)) -> Result<Arc<Node>, Error> {
        let mut options = CurlOptions::of(format!("http://{}/disk.img", self.address));
        options.timeout = 60;
        change(&mut options);
        block_on(Curl::open(CurlProtocol::Http, options)).map(|curl| Node::new("disk", curl))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        let _ = TcpStream::connect(self.address);
    }
}

fn serve_http(stream: TcpStream, manner: Manner, content: &[u8], requests: &AtomicUsize) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
        }
        if head.starts_with("HEAD") {
            let code = if manner == Manner::IsMissing { "404 Not Found" } else { "200 OK" };
            let ranges = if manner == Manner::RefusesRanges { "none" } else { "bytes" };
            write!(writer, "HTTP/1.1 {code}\r\nACCEPT-ranges: {ranges}\r\n")?;
            if manner != Manner::SaysNoLength {
                write!(writer, "Content-Length: {}\r\n", content.len())?;
            }
            write!(writer, "\r\n")?;
            continue;
        }
        requests.fetch_add(1, Ordering::AcqRel);
        let range = head.split("Range: bytes=").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap();
        let (first, last) = range.split_once('-').unwrap();
        let (mut first, mut last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let mut code = "206 Partial Content";
        match manner {
            Manner::IgnoresRanges => (code, first, last) = ("200 OK", 0, content.len() - 1),
            Manner::SendsAnotherRange => first += 1,
            Manner::SendsLess => last -= 10,
            Manner::SendsNothing => {
                // Until the other side has had enough.
                reader.read_to_end(&mut Vec::new())?;
                return Ok(());
            }
            Manner::GoesAway => return Ok(()),
            _ => {}
        }
        write!(writer, "HTTP/1.1 {code}\r\nContent-Range: bytes {first}-{last}/{}\r\n", content.len())?;
        if manner == Manner::SendsForEver {
            write!(writer, "\r\n")?;
            while writer.write_all(content).is_ok() {}
            return Ok(());
        }
        let body = &content[first..=last];
        write!(writer, "Content-Length: {}\r\n\r\n", body.len())?;
        writer.write_all(body)?;
    }
}

#[test]
fn a_file_is_read_in_parts_and_ahead() {
    let (server, content) = (Server::http(Manner::Good), content());
    let disk = server.open(|_| {}).unwrap();
    assert_eq!((disk.length(), disk.is_read_only()), (LENGTH as u64, true));
    block_on(async {
        assert_eq!(disk.read_vec(1000, 5000).await.unwrap(), content[1000..6000]);
        assert_eq!(disk.read_vec(6000, 200_000).await.unwrap(), content[6000..206_000]);
        assert_eq!(server.requests.load(Ordering::Acquire), 1);
        assert_eq!(disk.read_vec(0, LENGTH).await.unwrap(), content);
        let end = disk.read_vec(LENGTH as u64 - 10, 30).await.unwrap();
        assert_eq!(end, [&content[LENGTH - 10..], &[0; 20]].concat());
        assert_eq!(disk.read_vec(u64::MAX - 10, 5).await.unwrap(), [0; 5]);
        let reads = (0..40).map(|part| disk.read_vec(part * 70_000, 1000));
        for (part, read) in join_all(reads).await.into_iter().enumerate() {
            assert_eq!(read.unwrap(), content[part * 70_000..part * 70_000 + 1000]);
        }
        assert!(matches!(disk.write_bytes(0, b"x").await, Err(Error::ReadOnly)));
    });
}

#[test]
fn servers_that_cannot_serve_a_disk_are_refused() {
    let error = |manner| Server::http(manner).open(|_| {}).unwrap_err().to_string();
    let text = "CURL: Error opening file: Server does not support 'range' (byte ranges).";
    assert_eq!(error(Manner::RefusesRanges), text);
    assert_eq!(error(Manner::SaysNoLength), "CURL: Error opening file: Server didn't report file size.");
    assert!(error(Manner::IsMissing).contains("404"), "{}", error(Manner::IsMissing));
    let server = Server::http(Manner::Good);
    let text = |change: fn(&mut CurlOptions)| server.open(change).unwrap_err().to_string();
    assert!(text(|options| options.url = "https://x/".into()).ends_with("(does not start with 'http://')"));
    assert_eq!(text(|options| options.timeout = 10001), "timeout parameter is too large or negative");
    assert_eq!(text(|options| options.readahead = 100), "HTTP_READAHEAD_SIZE 100 is not a multiple of 512");
}

#[test]
fn what_servers_get_wrong_is_an_error_and_nothing_worse() {
    for (manner, why) in [
        (Manner::IgnoresRanges, "sends more than"),
        (Manner::SendsAnotherRange, "and sends another"),
        (Manner::SendsLess, "was asked for"),
        (Manner::SendsForEver, "sends more than"),
        (Manner::SendsNothing, "timed out"),
        (Manner::GoesAway, "CURL: "),
    ] {
        let server = Server::http(manner);
        let is_slow = manner == Manner::SendsNothing;
        let disk = server.open(|options| options.timeout = if is_slow { 1 } else { 60 }).unwrap();
        let error = block_on(disk.read_vec(4096, 1000)).unwrap_err();
        assert!(error.to_string().contains(why), "{manner:?}: {error}");
        assert_eq!(error.errno(), libc::EIO);
    }
}

/// Serves a file by FTP, as far as that is needed: one command after the other, data on connections of their own.
fn serve_ftp(stream: TcpStream, content: &[u8]) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let (mut start, mut data) = (0, None);
    write!(writer, "220 ready\r\n")?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let (verb, argument) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
        match verb {
            "USER" => write!(writer, "331 and the password\r\n")?,
            "PASS" if argument == "secret" => write!(writer, "230 welcome\r\n")?,
            "PASS" => write!(writer, "530 no\r\n")?,
            "PWD" => write!(writer, "257 \"/\"\r\n")?,
            "CWD" | "TYPE" => write!(writer, "250 done\r\n")?,
            "SIZE" => write!(writer, "213 {}\r\n", content.len())?,
            "EPSV" => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                write!(writer, "229 here (|||{}|)\r\n", listener.local_addr()?.port())?;
                data = Some(listener);
            }
            "REST" => {
                start = argument.parse().unwrap();
                write!(writer, "350 from there\r\n")?;
            }
            "RETR" => {
                write!(writer, "150 Opening data connection ({} bytes).\r\n", content.len() - start)?;
                let (mut stream, _) = data.take().unwrap().accept()?;
                // The client goes when it has what it wants.
                let _ = stream.write_all(&content[start..]);
                drop(stream);
                start = 0;
                write!(writer, "226 done\r\n")?;
            }
            "QUIT" => return Ok(()),
            _ => write!(writer, "502 what?\r\n")?,
        }
    }
}

#[test]
fn a_file_is_read_by_ftp() {
    let all = content();
    let served = all.clone();
    let server = Server::start(move |stream, _| {
        let _ = serve_ftp(stream, &served);
    });
    let mut options = CurlOptions::of(format!("ftp://{}/disk.img", server.address));
    (options.timeout, options.username, options.password) = (60, Some("me".into()), Some("secret".into()));
    let open = |options| block_on(Curl::open(CurlProtocol::Ftp, options));
    let disk = Node::new("disk", open(options.clone()).unwrap());
    assert_eq!((disk.length(), disk.driver().name()), (LENGTH as u64, "ftp"));
    for at in [0, 1_000_000, LENGTH - 1000] {
        assert_eq!(block_on(disk.read_vec(at as u64, 1000)).unwrap(), all[at..at + 1000]);
    }
    options.password = Some("guess".into());
    assert!(open(options).err().unwrap().to_string().starts_with("CURL: Error opening file: "));
}
