"""etcd: the client, the keyspace, the cache."""
