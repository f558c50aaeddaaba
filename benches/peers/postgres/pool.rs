//! Connections to PostgreSQL, each with the prepared call; one transaction at a time on each.

use std::ops::Deref;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::{Client, Config, Error, NoTls, Statement};

/// A connection.
pub struct Connection {
    /// Queries go here.
    pub client: Client,
    /// The call of `apply` in `schema.sql`.
    pub apply: Statement,
}

/// A fixed number of connections with one setting of `synchronous_commit`.
pub struct Pool {
    connections: Vec<Connection>,
    /// Places of those that nobody has.
    idle: Mutex<Vec<usize>>,
    /// As many permits as there are idle ones.
    free: Semaphore,
}

/// A connection that goes back when this is dropped.
pub struct Taken<'a> {
    pool: &'a Pool,
    place: usize,
    _permit: SemaphorePermit<'a>,
}

impl Pool {
    /// Opens as many as `size` over the Unix socket in this folder.
    ///
    /// # Errors
    /// When the server refuses one, or has not the schema.
    pub async fn connect(socket: &Path, size: usize, commit: &str) -> Result<Pool, Error> {
        let mut connections = Vec::with_capacity(size);
        for _ in 0..size {
            let (client, connection) = Config::new()
                .host_path(socket)
                .user("postgres")
                .dbname("postgres")
                .options(format!("-c synchronous_commit={commit}"))
                .connect(NoTls)
                .await?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    eprintln!("a connection to PostgreSQL ended: {error}");
                }
            });
            let apply = client
                .prepare(
                    "SELECT * FROM apply($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
                )
                .await?;
            connections.push(Connection { client, apply });
        }
        Ok(Pool {
            connections,
            idle: Mutex::new((0..size).collect()),
            free: Semaphore::new(size),
        })
    }

    /// How many there are.
    pub fn size(&self) -> usize {
        self.connections.len()
    }

    /// Waits for an idle one; the callers bound how many wait. `None` cannot happen while the pool is there.
    pub async fn take(&self) -> Option<Taken<'_>> {
        let permit = self.free.acquire().await.ok()?;
        let place = self.idle().pop()?;
        Some(Taken {
            pool: self,
            place,
            _permit: permit,
        })
    }

    fn idle(&self) -> MutexGuard<'_, Vec<usize>> {
        // Push and pop leave a Vec whole.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        // Before the permit goes: whoever gets that finds a place.
        self.pool.idle().push(self.place);
    }
}

impl Deref for Taken<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.pool.connections[self.place]
    }
}
