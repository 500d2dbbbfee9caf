use sinew::{Cx, Next, Outcome, interceptor};

#[interceptor]
pub fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
    todo!()
}

fn main() {}
