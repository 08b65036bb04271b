#!/usr/bin/env bash
# Serve Beam jobs on this machine, with Flink or Spark in the same process.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    cat <<'TEXT'
usage: deploy/job_server.sh flink|spark [flags of the job server]

Serve Beam jobs on localhost:8099, until it is interrupted. `make engines` brings the jars;
Java 17 runs them.

  --help    print this text

Flags of the job server that matter most, as --FLAG=VALUE:
  --job-port=8099                   where jobs are sent to
  --flink-master=[local]            [local] or the HOST:PORT of a Flink
  --flink-conf-dir=deploy/flink     what is set for all jobs
  --spark-master-url=local[2]       local[THREADS] or spark://HOST:PORT
TEXT
}

case "${1:-}" in
--help)
    usage
    exit
    ;;
flink)
    main=org.apache.beam.runners.flink.FlinkJobServerDriver
    flags=("--flink-master=[local]" --flink-conf-dir=deploy/flink)
    ;;
spark)
    main=org.apache.beam.runners.spark.SparkJobServerDriver
    flags=("--spark-master-url=local[2]")
    ;;
*)
    usage >&2
    exit 2
    ;;
esac

engine=$1
shift
if [ ! -e ".engines/$engine/.installed" ]; then
    echo "The jars of $engine are not in .engines/$engine; \`make engines\` fetches them." >&2
    exit 1
fi

# Flink and Spark reach into parts of Java that Java 17 closes.
opened=()
for package in java.lang java.lang.invoke java.net java.nio java.util java.util.concurrent \
    sun.nio.ch sun.security.action sun.util.calendar; do
    opened+=("--add-opens=java.base/$package=ALL-UNNAMED")
done

# No expansion service: this job brings no Java of its own. Of a flag that is there twice, the
# last one counts.
exec java "${opened[@]}" -cp ".engines/$engine/*" "$main" \
    --job-host=localhost --expansion-port=-1 "${flags[@]}" "$@"
