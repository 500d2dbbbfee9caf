//! A proxy: a server that knows no method and passes every call on, streams included.

use sinew::{Channel, Code, Cx, Server, ServerError, ServerRequest, Serving, Status, Streaming, service};

/// The whole proxy. Method, metadata, deadline, arguments, items, trailers and errors pass through as they came.
async fn proxy(upstream: Channel) -> Result<Serving, ServerError> {
    Server::builder()
        .fallback(move |cx: Cx, request: ServerRequest| {
            let upstream = upstream.clone();
            async move { upstream.forward(&cx, request).await }
        })
        .bind("127.0.0.1:0")
        .start()
        .await
}

/// Repeats what it hears.
#[service]
pub trait Echo {
    /// Once.
    async fn say(&self, cx: &Cx, text: &str) -> Result<String, Status>;
    /// Line by line.
    async fn lines(&self, lines: Streaming<String>) -> Result<Streaming<String>, Status>;
}

struct Wall;

impl Echo for Wall {
    async fn say(&self, cx: &Cx, text: &str) -> Result<String, Status> {
        let tone = cx.metadata().get("tone").ok_or_else(|| Status::failed_precondition("no tone"))?;
        Ok(format!("{text} ({tone})"))
    }

    async fn lines(&self, lines: Streaming<String>) -> Result<Streaming<String>, Status> {
        Ok(lines)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder().service(EchoServer::new(Wall)).bind("127.0.0.1:0").start().await?;
    let proxy = proxy(Channel::connect(&server.target()).await?).await?;
    let echo = EchoClient::connect(&proxy.target()).await?;

    assert_eq!(echo.say("hello").metadata("tone", "soft").await?, "hello (soft)");
    let toneless = echo.say("hello").await;
    assert!(toneless.is_err_and(|status| status.code() == Code::FailedPrecondition && status.message() == "no tone"));

    let (sender, lines) = Streaming::channel(1);
    let mut answers = echo.lines(lines).await?;
    for line in ["one", "two", "three"] {
        sender.send(line.to_owned()).await?;
        assert_eq!(answers.next().await.transpose()?.as_deref(), Some(line));
    }
    drop(sender);
    assert_eq!(answers.next().await, None);
    Ok(())
}
