use sinew::service;

#[service]
pub trait Orders {
    #[rpc(skip, timeout = "1s")]
    fn helper(&self) -> u64 {
        1
    }
}

fn main() {}
