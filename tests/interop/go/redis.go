package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/hibiken/asynq"
)

// parseRedis takes the URLs of asynqpy, of which asynq itself parses only some:
//
//	redis://… rediss://… redis-socket://…
//	redis-sentinel://[user:password@]h1:p,h2:p[/db]?master=name   also rediss-sentinel://
//	redis-cluster://[user:password@]h1:p,h2:p                     also rediss-cluster://
//
// Those with TLS take ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_server_name and ssl_insecure.
func parseRedis(text string) (asynq.RedisConnOpt, error) {
	scheme, rest, _ := strings.Cut(text, "://")
	if scheme == "redis" || scheme == "redis-socket" {
		return asynq.ParseRedisURI(text)
	}
	address, err := parseAddress(scheme, rest)
	if err != nil {
		return nil, err
	}
	switch strings.TrimPrefix(strings.TrimPrefix(scheme, "rediss"), "redis") {
	case "":
		return address.single(), nil
	case "-sentinel":
		return address.sentinel(), nil
	case "-cluster":
		return address.cluster(), nil
	}
	return nil, fmt.Errorf("unknown scheme %s://", scheme)
}

type address struct {
	hosts              []string
	username, password string
	db                 int
	options            url.Values
	tls                *tls.Config
}

// parseAddress splits by hand: net/url takes no list of hosts with ports.
func parseAddress(scheme, rest string) (a address, err error) {
	rest, query, _ := strings.Cut(rest, "?")
	if a.options, err = url.ParseQuery(strings.ReplaceAll(query, "+", "%2B")); err != nil {
		return a, err
	}
	rest, db, _ := strings.Cut(rest, "/")
	if db != "" {
		if a.db, err = strconv.Atoi(db); err != nil {
			return a, err
		}
	}
	at := strings.LastIndex(rest, "@")
	username, password, _ := strings.Cut(rest[:max(at, 0)], ":")
	if a.username, err = url.PathUnescape(username); err != nil {
		return a, err
	}
	if a.password, err = url.PathUnescape(password); err != nil {
		return a, err
	}
	a.hosts = strings.Split(rest[at+1:], ",")
	if strings.HasPrefix(scheme, "rediss") {
		a.tls, err = a.tlsConfig()
	}
	return a, err
}

func (a address) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{
		ServerName:         a.options.Get("ssl_server_name"),
		InsecureSkipVerify: a.options.Get("ssl_insecure") == "true",
	}
	if file := a.options.Get("ssl_ca_certs"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("no certificate in %s", file)
		}
	}
	if file := a.options.Get("ssl_certfile"); file != "" {
		key := a.options.Get("ssl_keyfile")
		if key == "" {
			key = file
		}
		own, err := tls.LoadX509KeyPair(file, key)
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{own}
	}
	return config, nil
}

func (a address) single() asynq.RedisConnOpt {
	return asynq.RedisClientOpt{
		Addr:      a.hosts[0],
		Username:  a.username,
		Password:  a.password,
		DB:        a.db,
		TLSConfig: a.tls,
	}
}

func (a address) cluster() asynq.RedisConnOpt {
	return asynq.RedisClusterClientOpt{
		Addrs:     a.hosts,
		Username:  a.username,
		Password:  a.password,
		TLSConfig: a.tls,
	}
}

// sentinel is a failover client. Unless they are named apart, sentinels get the same credentials.
func (a address) sentinel() asynq.RedisConnOpt {
	options := asynq.RedisFailoverClientOpt{
		MasterName:    a.options.Get("master"),
		SentinelAddrs: a.hosts,
		Username:      a.username,
		Password:      a.password,
		DB:            a.db,
		TLSConfig:     a.tls,
	}
	username, password := a.username, a.password
	if a.options.Has("sentinel_username") || a.options.Has("sentinel_password") {
		username, password = a.options.Get("sentinel_username"), a.options.Get("sentinel_password")
	}
	options.SentinelPassword = password
	setSentinelUsername(&options, username)
	return options
}
