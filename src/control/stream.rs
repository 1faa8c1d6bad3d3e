//! TCP streams and listeners by tokio-uring, or by tokio where io_uring is forbidden; and the runtime that carries them.
//! Knows no SIP.

use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr};

use tokio::task::LocalSet;

/// The control thread's runtime.
pub enum Runtime {
    Uring(tokio_uring::Runtime),
    Tokio(tokio::runtime::Runtime, LocalSet),
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Runtime::Uring(_) => "Runtime::Uring",
            Runtime::Tokio(..) => "Runtime::Tokio",
        })
    }
}

impl Runtime {
    /// A runtime over io_uring, or over epoll.
    pub fn new(uring: bool) -> io::Result<Runtime> {
        if uring {
            return tokio_uring::Runtime::new(&tokio_uring::builder()).map(Runtime::Uring);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Runtime::Tokio(runtime, LocalSet::new()))
    }

    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        match self {
            Runtime::Uring(runtime) => runtime.block_on(future),
            Runtime::Tokio(runtime, local) => local.block_on(runtime, future),
        }
    }

    /// Whether this runtime is one over io_uring.
    pub fn is_uring(&self) -> bool {
        matches!(self, Runtime::Uring(_))
    }
}

/// One connection. Reading and writing at once is fine, each by one task at a time.
pub enum Stream {
    Uring(tokio_uring::net::TcpStream),
    Tokio(tokio::net::TcpStream),
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl Stream {
    /// Connects without the ring, so that giving up closes the socket: a connect that the ring has begun lives on until the
    /// kernel tires of it.
    pub async fn connect(uring: bool, address: SocketAddr) -> io::Result<Stream> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        if !uring {
            return Ok(Stream::Tokio(stream));
        }
        let stream = stream.into_std()?;
        // The ring waits by itself; a socket that must not block would answer EAGAIN.
        stream.set_nonblocking(false)?;
        Ok(Stream::Uring(tokio_uring::net::TcpStream::from_std(stream)))
    }

    /// Reads once into `buffer`, which the operation owns meanwhile; 0 bytes mean the end.
    ///
    /// Never drop this future before it is done: the kernel may have read what then is lost. `shutdown` ends it.
    pub async fn read(&self, buffer: Vec<u8>) -> (io::Result<usize>, Vec<u8>) {
        match self {
            Stream::Uring(stream) => stream.read(buffer).await,
            Stream::Tokio(stream) => {
                let mut buffer = buffer;
                buffer.resize(buffer.capacity(), 0);
                loop {
                    let ready = stream.readable().await;
                    let result = ready.and_then(|()| stream.try_read(&mut buffer));
                    if result
                        .as_ref()
                        .is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
                    {
                        continue;
                    }
                    return (result, buffer);
                }
            }
        }
    }

    /// Writes all of `bytes` and gives the buffer back.
    pub async fn write_all(&self, bytes: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        match self {
            Stream::Uring(stream) => stream.write_all(bytes).await,
            Stream::Tokio(stream) => (write_all(stream, &bytes).await, bytes),
        }
    }

    /// Ends the connection both ways: a pending read or write ends at once.
    pub fn shutdown(&self) {
        // The peer may have closed it already; there is nothing more to end then.
        let _ = match self {
            Stream::Uring(stream) => stream.shutdown(Shutdown::Both),
            Stream::Tokio(stream) => socket2::SockRef::from(stream).shutdown(Shutdown::Both),
        };
    }
}

async fn write_all(stream: &tokio::net::TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.writable().await?;
        match stream.try_write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// A listening socket.
pub enum Listener {
    Uring(tokio_uring::net::TcpListener),
    Tokio(tokio::net::TcpListener),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Listener")
    }
}

impl Listener {
    /// Must be called within the runtime.
    pub fn new(uring: bool, socket: std::net::TcpListener) -> io::Result<Listener> {
        if uring {
            return Ok(Listener::Uring(tokio_uring::net::TcpListener::from_std(
                socket,
            )));
        }
        socket.set_nonblocking(true)?;
        Ok(Listener::Tokio(tokio::net::TcpListener::from_std(socket)?))
    }

    pub async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Listener::Uring(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Stream::Uring(stream), peer))
            }
            Listener::Tokio(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Stream::Tokio(stream), peer))
            }
        }
    }
}
