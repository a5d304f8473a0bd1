//! The locations of the admin interface: TCP addresses or a Unix socket, bound at once or when an earlier instance
//! releases them.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::net::open::LISTEN_BACKLOG;

/// Pause between checks whether an earlier instance has released an address.
const BIND_INTERVAL: Duration = Duration::from_millis(250);

/// Why an endpoint cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The admin or metrics address cannot be bound.
    #[error("{key} {address}: {source}; {}", crate::net::open::remedy(source))]
    Address {
        /// `admin` or `metrics.listen`.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The admin socket cannot be made.
    #[error("socket {}: {source}; its directory must be writable, and no other instance may use it", path.display())]
    Socket {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The location of an endpoint.
#[derive(Debug, Clone)]
pub(super) enum Location {
    /// A TCP address, and the key that names it.
    Address(&'static str, SocketAddr),
    /// A Unix socket.
    File(PathBuf),
}

/// A listening socket.
pub(super) enum AdminListener {
    /// Over TCP.
    Tcp(std::net::TcpListener),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixListener, SocketFile),
}

impl Location {
    /// Binds it.
    pub(super) fn bind(&self) -> io::Result<AdminListener> {
        match self {
            Self::Address(_, address) => bind_tcp(*address).map(AdminListener::Tcp),
            Self::File(path) => {
                let listener = bind_unix(path)?;
                Ok(AdminListener::Unix(listener, SocketFile::new(path.clone())))
            }
        }
    }

    /// The error of binding it.
    pub(super) fn error(self, source: io::Error) -> AdminError {
        match self {
            Self::Address(key, address) => AdminError::Address {
                key,
                address,
                source,
            },
            Self::File(path) => AdminError::Socket { path, source },
        }
    }

    /// Waits until an earlier instance releases it.
    pub(super) async fn take_over(&self) -> AdminListener {
        loop {
            tokio::time::sleep(BIND_INTERVAL).await;
            if let Ok(listener) = self.bind() {
                return listener;
            }
        }
    }
}

/// A Unix socket's file; dropping it removes it, unless another instance has put its own in its place.
pub(super) struct SocketFile {
    path: PathBuf,
    inode: Option<u64>,
}

impl SocketFile {
    fn new(path: PathBuf) -> Self {
        let inode = inode(&path);
        Self { path, inode }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if inode(&self.path) != self.inode {
            return;
        }
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "the socket's file stays");
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some(metadata.ino())
}

fn bind_tcp(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // An instance before us may have left connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // As for clients: `[::]:9153` beside `0.0.0.0:9153` is what users write.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(socket.into())
}

/// A Unix socket that only our own user can use. One that nobody listens on any more is replaced.
fn bind_unix(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is no socket is there",
            ));
        }
        Ok(_) => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
            fs::remove_file(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // On Linux the file inherits the socket's own mode, so there is no moment at which others could connect.
    let socket = fs::File::from(OwnedFd::from(socket));
    socket.set_permissions(fs::Permissions::from_mode(0o600))?;
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(path)?)?;
    socket.listen(LISTEN_BACKLOG)?;
    Ok(OwnedFd::from(socket).into())
}
