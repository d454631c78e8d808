//! The bound: a server that only calls `sendfile`, a client that only reads and compares.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::data::DataSet;

const READ_BYTES: usize = 256 << 10;

pub struct Bound {
    pub bytes_per_second: f64,
    /// Of the sending threads; what a server cannot do without.
    pub cpu_us_per_block: f64,
}

pub fn measure(data: &DataSet, connections: usize, duration: Duration) -> Result<Bound> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let start = Instant::now();
    let until = start + duration;
    let (blocks, cpu) = std::thread::scope(|scope| {
        let servers: Vec<_> = (0..connections).map(|_| scope.spawn(|| serve(&listener, data))).collect();
        let clients: Vec<_> =
            (0..connections).map(|_| scope.spawn(move || read(address, data, until))).collect();
        let blocks: u64 = clients.into_iter().map(|c| c.join().expect("reads")).sum::<Result<_>>()?;
        let cpu: Duration = servers.into_iter().map(|s| s.join().expect("serves")).sum::<Result<_>>()?;
        Ok::<_, anyhow::Error>((blocks, cpu))
    })?;
    let bytes = blocks as f64 * data.block_bytes as f64;
    Ok(Bound {
        bytes_per_second: bytes / start.elapsed().as_secs_f64(),
        cpu_us_per_block: cpu.as_secs_f64() * 1e6 / blocks as f64,
    })
}

/// Returns the CPU time that it took.
fn serve(listener: &TcpListener, data: &DataSet) -> Result<Duration> {
    let (mut socket, _) = listener.accept()?;
    socket.set_nodelay(true)?;
    let file = File::open(data.file())?;
    let mut request = [0; 8];
    while socket.read_exact(&mut request).is_ok() {
        let mut offset = u64::from_be_bytes(request);
        let end = offset + data.block_bytes as u64;
        while offset < end {
            let count = (end - offset) as usize;
            rustix::fs::sendfile(&socket, &file, Some(&mut offset), count)?;
        }
    }
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Ok(Duration::new(cpu.tv_sec as u64, cpu.tv_nsec as u32))
}

fn read(address: std::net::SocketAddr, data: &DataSet, until: Instant) -> Result<u64> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut blocks = 0;
    for round in 0.. {
        if Instant::now() >= until {
            break;
        }
        let reduce = round % data.blocks();
        socket.write_all(&((reduce * data.block_bytes) as u64).to_be_bytes())?;
        let mut left = data.block(reduce);
        while !left.is_empty() {
            let room = buffer.len().min(left.len());
            let got = socket.read(&mut buffer[..room])?;
            ensure!(got > 0 && buffer[..got] == left[..got]);
            left = &left[got..];
        }
        blocks += 1;
    }
    Ok(blocks)
}
