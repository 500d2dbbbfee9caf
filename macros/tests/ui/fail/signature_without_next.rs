use sinew::{Cx, Outcome, interceptor};

#[interceptor]
pub async fn audit(cx: &mut Cx) -> Outcome {
    todo!()
}

fn main() {}
