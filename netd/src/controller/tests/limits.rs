//! What is too much is refused before room is taken for it.

use super::*;

#[tokio::test]
async fn more_ports_than_the_map_holds_are_refused_before_they_are_listed() {
    let mut bench = Bench::new().await;
    let every = vec!["1-65535/udp"; 40_000]; // in a body of half a mebibyte: two and a half thousand million ports
    let error = bench.sandbox("a", &["bridge"], &every).await.expect_err("too many");
    assert_eq!(error.code, Code::Limit);
    assert_eq!(error.message, "publish for sandbox a: 2621400000 ports, the map PUBLISH has room for 131072");
    bench.sandbox("a", &["bridge"], &["8000-8999:8000-8999"]).await.expect("a thousand are fine");
}
