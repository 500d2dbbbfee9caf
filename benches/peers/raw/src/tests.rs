//! Every kind of call against a server in the same process, with bodies around the sizes at which paths change.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::Result;
use bytes::Bytes;
use load::messages::{Echo, User};
use load::{Encoding, Peer, compute_20us};

use crate::client::Caller;

async fn caller(encoding: Encoding) -> Result<Caller> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    // Ends with the test's runtime.
    tokio::spawn(Caller::serve(listener, encoding));
    Caller::connect(address, encoding).await
}

#[tokio::test]
async fn structs_come_back_in_both_encodings() -> Result<()> {
    for encoding in [Encoding::Compact, Encoding::Named] {
        let mut caller = caller(encoding).await?;
        caller.echo(&Echo::sample(), true).await?;
        caller.user(&User::sample(), true).await?;
        assert_eq!(caller.work20us(3).await?, compute_20us(3));
        caller.sleep1ms().await?;
    }
    Ok(())
}

#[tokio::test]
async fn bodies_of_every_size_come_back() -> Result<()> {
    let mut caller = caller(Encoding::Compact).await?;
    for len in [0, 1, 4095, 4096, 4097, 8177, 8178, 8192, 65_535, 65_536, 3_000_000, 17] {
        let body: Vec<u8> = (0..len).map(|index| (index % 251) as u8).collect();
        caller.blob(&Bytes::from(body), true).await?;
    }
    Ok(())
}

#[tokio::test]
async fn callers_share_a_connection_with_mixed_calls() -> Result<()> {
    let first = caller(Encoding::Compact).await?;
    let body = Bytes::from(vec![7; 300_000]);
    let mut callers = tokio::task::JoinSet::new();
    for index in 0..32 {
        let (mut caller, body) = (first.another(), body.clone());
        callers.spawn(async move {
            for _ in 0..50 {
                match index % 3 {
                    0 => caller.echo(&Echo::sample(), true).await?,
                    1 => caller.user(&User::sample(), true).await?,
                    _ => caller.blob(&body, true).await?,
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    Ok(())
}

#[tokio::test]
async fn streams_deliver_every_item() -> Result<()> {
    let mut caller = caller(Encoding::Compact).await?;
    for items in [0, 1, 100_000] {
        let mut received = 0;
        caller.stream(items, || received += 1).await?;
        assert_eq!(received, items);
    }
    let mut turns = 0;
    let again = || {
        turns += 1;
        turns < 100
    };
    caller.ping_pong(&Echo::sample(), again).await?;
    assert_eq!(turns, 100);
    caller.echo(&Echo::sample(), true).await
}
