//! The web server behind a backend, which answers with the backend's number.

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// Starts a web server that runs until the test ends, and returns its address.
pub async fn serve(number: usize) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, number));
        }
    });
    Ok(address)
}

async fn answer(mut stream: TcpStream, number: usize) -> Result<()> {
    let mut request = [0; 1024];
    // Our own client sends its whole request in one write.
    let _ = stream.read(&mut request).await?;
    stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{number}\n").as_bytes()).await?;
    Ok(stream.shutdown().await?)
}
