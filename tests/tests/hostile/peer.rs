//! Peers that write what they like: raw HTTP, records of the master-agent link, calls of the shuffle service.
use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

/// Far beyond every time that a server gives a peer.
const PATIENCE: Duration = Duration::from_secs(150);

/// Connects from 127.0.0.1, to `host:port`.
pub(crate) fn connect(address: &str) -> Result<TcpStream> {
    connect_from(Ipv4Addr::LOCALHOST, address)
}

/// Connects from another address of the loopback interface: another peer, to whom it may concern.
pub(crate) fn connect_from(source: Ipv4Addr, address: &str) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(IpAddr::V4(source), 0).into())?;
    let address: SocketAddr = address.parse()?;
    socket.connect(&address.into())?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Sends a request and returns the answer's status and body. A server may answer before it has read all.
pub(crate) fn request(address: &str, head: &str, body: &[u8]) -> Result<(u16, String)> {
    let mut stream = connect(address)?;
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    stream.write_all(format!("{head}\r\n{length}Connection: close\r\n\r\n").as_bytes())?;
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let ended = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("no answer to {head}: {ended:?}"))?;
    Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

/// A protobuf field of bytes.
pub(crate) fn field(number: u8, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    let mut field = vec![number << 3 | 2];
    let mut length = content.len();
    while length > 127 {
        field.push(length as u8 | 128);
        length >>= 7;
    }
    field.push(length as u8);
    field.extend_from_slice(content);
    field
}

/// A protobuf field that is a small number.
pub(crate) fn number(field: u8, value: u8) -> Vec<u8> {
    vec![field << 3, value]
}

/// An agent's end of `/api/v1/link`.
pub(crate) struct Link {
    stream: BufReader<TcpStream>,
    headers_read: bool,
    unread: Vec<u8>,
}

impl Link {
    pub(crate) fn open(master: &str) -> Result<Self> {
        let mut stream = connect(master)?;
        stream.write_all(
            b"POST /api/v1/link HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/recordio\r\n\
              Accept: application/recordio\r\nTransfer-Encoding: chunked\r\n\r\n",
        )?;
        Ok(Self { stream: BufReader::new(stream), headers_read: false, unread: Vec::new() })
    }

    /// Says one record, whatever it holds.
    pub(crate) fn say(&mut self, record: &[u8]) -> Result<()> {
        let length = format!("{}\n", record.len());
        self.write(&[length.as_bytes(), record].concat())
    }

    /// Writes bytes that may be no record.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
        stream.write_all(bytes)?;
        Ok(stream.write_all(b"\r\n")?)
    }

    /// The next message that is no ping: which one it is, and its content.
    pub(crate) fn hear(&mut self) -> Result<(u8, Vec<u8>)> {
        loop {
            let record = self.record()?;
            let (tag, rest) = record.split_first().context("an empty record")?;
            let start = rest.iter().position(|byte| byte & 128 == 0).context("a length")? + 1;
            match tag >> 3 {
                PING => self.say(&[[3 << 3 | 2].as_slice(), rest].concat())?,
                kind => return Ok((kind, rest[start..].to_vec())),
            }
        }
    }

    fn record(&mut self) -> Result<Vec<u8>> {
        if !self.headers_read {
            while !self.line()?.is_empty() {}
            self.headers_read = true;
        }
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let length: usize = std::str::from_utf8(&self.unread[..end])?.parse()?;
                if self.unread.len() > end + length {
                    let rest = self.unread.split_off(end + 1 + length);
                    return Ok(std::mem::replace(&mut self.unread, rest).split_off(end + 1));
                }
            }
            let bytes = usize::from_str_radix(&self.line()?, 16)?;
            if bytes == 0 {
                bail!("the master has closed the link");
            }
            let before = self.unread.len();
            self.unread.resize(before + bytes, 0);
            self.stream.read_exact(&mut self.unread[before..])?;
            self.line()?;
        }
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the master has closed the connection");
        }
        Ok(line.trim_end().to_owned())
    }
}

/// What a master says first.
pub(crate) const REGISTERED: u8 = 1;
pub(crate) const REFUSED: u8 = 2;
pub(crate) const TRY_LATER: u8 = 11;
const PING: u8 = 10;

/// A resource that is one number.
pub(crate) fn scalar(name: &str, value: f64) -> Vec<u8> {
    let value = [[1 << 3 | 1].as_slice(), &value.to_le_bytes()].concat();
    [field(1, name), number(2, 0), field(3, value)].concat()
}

/// `AgentInfo`, of an agent that says who it is where it has an id.
pub(crate) fn agent_info(id: Option<&str>, resources: &[(&str, f64)]) -> Vec<u8> {
    let resources = resources.iter().flat_map(|(name, value)| field(3, scalar(name, *value)));
    let id = id.map(|id| field(6, field(1, id))).unwrap_or_default();
    [field(1, "hostile.example"), resources.collect(), id].concat()
}

/// `Register`, with tasks and frameworks in `more`.
pub(crate) fn register(info: &[u8], more: &[u8]) -> Vec<u8> {
    field(1, [field(1, info), field(2, "1"), more.to_vec()].concat())
}

/// `StatusUpdate` of a task.
pub(crate) fn status_update(framework: &str, task: &str, state: u8, uuid: u8) -> Vec<u8> {
    let status = [field(1, field(1, task)), number(2, state), field(11, [uuid; 16])].concat();
    field(2, [field(1, field(1, framework)), field(2, status)].concat())
}

/// Calls the shuffle service and returns its answer, or why it refuses.
pub(crate) fn call_shuffle(stream: &mut TcpStream, call: &[u8]) -> Result<Result<Vec<u8>, String>> {
    const RPC_REQUEST: u8 = 3;
    const RPC_RESPONSE: u8 = 4;
    let mut frame = (8 + 1 + 8 + 4 + call.len() as u64).to_be_bytes().to_vec();
    frame.push(RPC_REQUEST);
    frame.extend_from_slice(&1_u64.to_be_bytes());
    frame.extend_from_slice(&(call.len() as u32).to_be_bytes());
    frame.extend_from_slice(call);
    stream.write_all(&frame)?;
    let mut length = [0; 8];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u64::from_be_bytes(length) as usize - 8];
    stream.read_exact(&mut answer)?;
    let content = answer.split_off(1 + 8 + 4);
    Ok(match answer[0] {
        RPC_RESPONSE => Ok(content),
        _ => Err(String::from_utf8_lossy(&content).into_owned()),
    })
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

fn texts(all: &[String]) -> Vec<u8> {
    let all_texts = all.iter().flat_map(|one| text(one));
    (all.len() as u32).to_be_bytes().into_iter().chain(all_texts).collect()
}

/// `RegisterExecutor` of executor 1.
pub(crate) fn register_executor(application: &str, dirs: &[String]) -> Vec<u8> {
    let info = [texts(dirs), 64_u32.to_be_bytes().to_vec(), text("sort")].concat();
    [vec![2], text(application), text("1"), info].concat()
}

/// `RemoveBlocks` of executor 1.
pub(crate) fn remove_blocks(application: &str, blocks: &[String]) -> Vec<u8> {
    [vec![7], text(application), text("1"), texts(blocks)].concat()
}
