use sinew::service;

#[service]
pub struct Orders;

fn main() {}
