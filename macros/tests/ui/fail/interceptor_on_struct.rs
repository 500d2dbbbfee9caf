use sinew::interceptor;

#[interceptor]
pub struct Audit;

fn main() {}
