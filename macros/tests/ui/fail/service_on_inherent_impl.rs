use sinew::service;

pub struct Shop;

#[service]
impl Shop {}

fn main() {}
