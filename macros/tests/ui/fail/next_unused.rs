use sinew::{Cx, Next, Outcome, Status, interceptor};

#[interceptor]
pub async fn deny(cx: &mut Cx, next: impl Next) -> Outcome {
    let _ = cx;
    Err(Status::internal("no"))
}

fn main() {}
