//! A prefix in a bucket of an S3 service.
//!
//! A put is one `PutObject`: by the service's contract it is there whole and durably, or
//! not at all. Whether a missing object is missing, or the bucket is, only a list can
//! tell (a `HEAD` has no words), so absence is confirmed by one, at most once a minute.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::TryStreamExt;
use opendal::services;

use super::{Service, client};
use crate::address::Bucket;
use crate::{Durability, Key, ObjectMeta, Store, StoreError, StoreOptions};

/// How long a bucket that was seen counts as being there.
const SEEN: Duration = Duration::from_secs(60);

/// An S3 service.
#[derive(Debug)]
pub(crate) struct S3 {
    service: Service,
    seen: Mutex<Option<Instant>>,
}

impl S3 {
    pub(crate) fn new(
        address: &str,
        bucket: &Bucket,
        options: &StoreOptions,
    ) -> Result<Self, StoreError> {
        let client = client(address, options)?;
        let service = Service::new(address, builder(bucket, options), client, options)?;
        Ok(Self {
            service,
            seen: Mutex::new(None),
        })
    }

    /// An answer of "not found" counts only while the bucket is there.
    async fn ensure_bucket(&self) -> Result<(), StoreError> {
        let recent = |seen: Instant| seen.elapsed() < SEEN;
        if self
            .seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(recent)
        {
            return Ok(());
        }
        let explain = |failure| self.service.explain("find the bucket", failure);
        let lister = self.service.operator.lister_with("/").limit(1);
        let mut lister = self
            .service
            .bounded(0, lister.into_future())
            .await
            .map_err(explain)?;
        self.service
            .bounded(0, lister.try_next())
            .await
            .map_err(explain)?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        Ok(())
    }

    async fn confirm<T>(&self, answer: Option<T>) -> Result<Option<T>, StoreError> {
        if answer.is_none() {
            self.ensure_bucket().await?;
        }
        Ok(answer)
    }
}

fn builder(bucket: &Bucket, options: &StoreOptions) -> services::S3 {
    let given = &options.s3;
    let endpoint = bucket.endpoint.as_ref().or(given.endpoint.as_ref());
    let region = bucket.region.as_ref().or(given.region.as_ref());
    let profile = bucket.profile.as_ref().or(given.profile.as_ref());
    let mut builder = services::S3::default()
        .bucket(&bucket.name)
        .root(&format!("/{}", bucket.prefix));
    if let Some(endpoint) = endpoint {
        // A service of one's own hands out no roles, and asking for one would wait in vain.
        builder = builder.endpoint(endpoint).disable_ec2_metadata();
    }
    match region {
        Some(region) => builder = builder.region(region),
        // Other services than Amazon's take any region; this is the customary one.
        None if endpoint.is_some() => builder = builder.region("us-east-1"),
        None => {}
    }
    if let Some(profile) = profile {
        builder = builder.profile(profile);
    }
    if let (Some(id), Some(secret)) = (&given.access_key_id, &given.secret_access_key) {
        builder = builder.access_key_id(id).secret_access_key(secret);
    }
    if let Some(token) = &given.session_token {
        builder = builder.session_token(token);
    }
    if !given.environment {
        builder = builder.disable_config_load().disable_ec2_metadata();
    }
    builder
}

#[async_trait]
impl Store for S3 {
    fn address(&self) -> &str {
        &self.service.address
    }

    fn durability(&self) -> Durability {
        Durability::Synced
    }

    async fn put(&self, key: &Key, bytes: Bytes) -> Result<(), StoreError> {
        let size = bytes.len() as u64;
        let write = self.service.operator.write(key.as_str(), bytes);
        match self.service.bounded(size, write).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.service.explain(&format!("put {key}"), failure)),
        }
    }

    async fn get(&self, key: &Key) -> Result<Option<Bytes>, StoreError> {
        self.confirm(self.service.get(key).await?).await
    }

    async fn get_range(&self, key: &Key, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        self.confirm(self.service.get_range(key, range).await?)
            .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectMeta>, StoreError> {
        self.service.list(prefix).await
    }

    async fn stat(&self, key: &Key) -> Result<Option<ObjectMeta>, StoreError> {
        self.confirm(self.service.stat(key).await?).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.service.delete(key).await
    }
}
