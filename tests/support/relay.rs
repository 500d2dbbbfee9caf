//! A relay of datagrams between one client and a server: a router that forgets a flow, loses packets, or lets nothing back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Passes datagrams on for as long as it lives.
pub(crate) struct Relay {
    address: SocketAddr,
    rebind: Arc<Notify>,
    rebound: Arc<AtomicUsize>,
    deaf: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Relay {
    /// One that loses nothing.
    pub(crate) async fn in_front_of(server: SocketAddr) -> Self {
        Self::losing(server, || false).await
    }

    /// One that drops what `lose` says, each way.
    pub(crate) async fn losing(server: SocketAddr, mut lose: impl FnMut() -> bool + Send + 'static) -> Self {
        let inside = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = inside.local_addr().unwrap();
        let (rebind, rebound) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
        let deaf = Arc::new(AtomicBool::new(false));
        let (asked, done, drops) = (Arc::clone(&rebind), Arc::clone(&rebound), Arc::clone(&deaf));
        let task = tokio::spawn(async move {
            let mut outside = towards(server).await;
            let mut client = None;
            let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
            loop {
                tokio::select! {
                    // Each is cancel safe.
                    () = asked.notified() => {
                        outside = towards(server).await;
                        done.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok((len, from)) = inside.recv_from(&mut there) => {
                        // The probe of one byte comes from another socket than the connection.
                        if len > 1 {
                            client = Some(from);
                        }
                        if !lose() {
                            outside.send(&there[..len]).await.unwrap();
                        }
                    }
                    Ok(len) = outside.recv(&mut back) => if let Some(client) = client
                        && !drops.load(Ordering::SeqCst)
                        && !lose()
                    {
                        inside.send_to(&back[..len], client).await.unwrap();
                    }
                }
            }
        });
        Self {
            address,
            rebind,
            rebound,
            deaf,
            task,
        }
    }

    /// Where clients find the server.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a target, by a name that the server's certificate has.
    pub(crate) fn target(&self) -> String {
        format!("quic://localhost:{}", self.address().port())
    }

    /// Whether what the server sends is dropped.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.deaf.store(deaf, Ordering::SeqCst);
    }

    /// Sends to the server from another port from now on.
    pub(crate) async fn change_address(&self) {
        let before = self.rebound.load(Ordering::SeqCst);
        self.rebind.notify_one();
        while self.rebound.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn towards(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket
}
