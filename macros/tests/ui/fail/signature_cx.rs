use sinew::{Cx, Next, Outcome, interceptor};

#[interceptor]
pub async fn audit(cx: &Cx, next: impl Next) -> Outcome {
    todo!()
}

fn main() {}
