//! Connected UDP sockets for hickory's exchanges. Its own are not connected, so that ICMP errors are noticed only at
//! the timeout.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::net::runtime::{
    DnsUdpSocket, RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime,
};
use tokio::net::UdpSocket;

use super::open::connect_udp;

/// Tokio's sockets, with UDP ones connected as glibc's are: a port where nobody listens fails at once instead of
/// after the timeout.
#[derive(Clone, Default)]
pub(crate) struct ConnectedSockets(TokioRuntimeProvider);

/// A connected UDP socket. hickory's contract asks for sockets that are not, for the sake of systems that refuse
/// `sendto` on them; this one sends without an address.
pub(crate) struct ConnectedUdp(UdpSocket);

/// What [`RuntimeProvider`] returns its sockets in.
type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for ConnectedSockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = ConnectedUdp;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server_addr: SocketAddr,
        bind_addr: Option<SocketAddr>,
        timeout: Option<Duration>,
    ) -> Opening<Self::Tcp> {
        self.0.connect_tcp(server_addr, bind_addr, timeout)
    }

    fn bind_udp(&self, _: SocketAddr, server_addr: SocketAddr) -> Opening<Self::Udp> {
        Box::pin(async move {
            // With IP_RECVERR, as in glibc, so that "host unreachable" is reported, too.
            let socket = UdpSocket::from_std(connect_udp(server_addr)?.into())?;
            Ok(ConnectedUdp(socket))
        })
    }
}

#[async_trait]
impl DnsUdpSocket for ConnectedUdp {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        DnsUdpSocket::poll_recv_from(&self.0, context, buffer)
    }

    /// Not by `poll_recv_from`, which waits for readability alone: an ICMP error makes a socket "in error", not
    /// readable, and would be noticed at the timeout only (tokio 1.54).
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        self.0.recv_from(buffer).await
    }

    fn poll_send_to(
        &self,
        context: &mut Context<'_>,
        buffer: &[u8],
        _target: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.0.poll_send(context, buffer)
    }
}
