use sinew::{Cx, Outcome, interceptor};

#[interceptor]
pub async fn audit(cx: &mut Cx, next: u64) -> Outcome {
    todo!()
}

fn main() {}
