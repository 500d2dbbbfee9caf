use sinew::service;

#[service]
pub enum Orders {
    A,
}

fn main() {}
