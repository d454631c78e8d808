//! The bound: a server that only calls `sendfile`, a client that only reads and compares.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::data::DataSet;

const READ_BYTES: usize = 256 << 10;

pub fn bytes_per_second(data: &DataSet, connections: usize, duration: Duration) -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let until = Instant::now() + duration;
    let start = Instant::now();
    let total = std::thread::scope(|scope| {
        for _ in 0..connections {
            let listener = &listener;
            scope.spawn(move || serve(listener, data));
        }
        // One reading thread for all connections would be the bound itself; the load generator has one as well.
        let clients: Vec<_> =
            (0..connections).map(|_| scope.spawn(move || read(address, data, until))).collect();
        let read = clients.into_iter().map(|client| client.join().expect("reads"));
        read.sum::<Result<u64>>()
    })?;
    Ok(total as f64 / start.elapsed().as_secs_f64())
}

fn serve(listener: &TcpListener, data: &DataSet) -> Result<()> {
    let (mut socket, _) = listener.accept()?;
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
    Ok(())
}

fn read(address: std::net::SocketAddr, data: &DataSet, until: Instant) -> Result<u64> {
    let mut socket = TcpStream::connect(address)?;
    let mut buffer = vec![0; READ_BYTES];
    let mut total = 0;
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
        total += data.block_bytes as u64;
    }
    Ok(total)
}
