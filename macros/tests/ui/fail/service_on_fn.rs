use sinew::service;

#[service]
pub fn orders() {}

fn main() {}
