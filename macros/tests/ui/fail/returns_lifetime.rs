use sinew::service;

#[service]
pub trait Orders {
    async fn get(&self, id: u64) -> std::borrow::Cow<'_, str>;
}

fn main() {}
