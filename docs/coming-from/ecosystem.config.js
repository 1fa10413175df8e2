module.exports = {
  apps: [{
    name: "shop",
    script: "server.js",
    cwd: "/srv/shop",
    instances: 2,
    exec_mode: "cluster",
    env: { NODE_ENV: "production" },
    max_memory_restart: "300M",
    exp_backoff_restart_delay: 100,
    kill_timeout: 5000,
    wait_ready: true,
    listen_timeout: 10000,
    out_file: "/var/log/shop/shop.log",
  }],
};
