# nodens as an image that holds one static binary and nothing else.
#
#   docker build --build-arg VERSION=0.1.0 -t nodens .
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION=0.1.0 -t REGISTRY/nodens:0.1.0 --push .
#
# Each platform is compiled on that platform: no cross toolchain to go wrong. A buildx with a node of either kind does
# that natively; with one kind only, the other runs under QEMU, which is correct but takes many times longer.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# Writes the list of all crates into the binary, where scanners of images find it; .ci/sbom reads it.
RUN cargo install --locked --version 0.7.7 cargo-auditable

# Static, glibc included. Naming the target, though it is the host itself, keeps the flags from build scripts and
# procedural macros, which must stay dynamic. getrandom would look its system call up with dlsym, which a static binary
# does not have, and fall back to /dev/urandom, which an empty image need not have. The linker puts functions that run beside
# one another. .ci/run builds with this very line.
COPY .ci/link-cc .ci/linked-first .ci/
ENV RUSTFLAGS='-C target-feature=+crt-static --cfg getrandom_backend="linux_getrandom" -C linker=.ci/link-cc'

# mimalloc writes when it was compiled into the binary, which would make every build another one (.ci/reproducible).
ENV SOURCE_DATE_EPOCH=0

# A layer of the dependencies alone: unchanged until Cargo.toml or Cargo.lock change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src \
    && echo 'fn main() {}' > src/main.rs \
    && touch src/lib.rs \
    && cargo auditable build --profile image --locked --target "$(uname -m)-unknown-linux-gnu" \
    && rm -r src

COPY src src
# cargo compares modification times, and a checkout may be older than the layer above.
RUN find src -name '*.rs' -exec touch {} + \
    && cargo auditable build --profile image --locked --target "$(uname -m)-unknown-linux-gnu" \
    && cp "target/$(uname -m)-unknown-linux-gnu/image/nodens" /nodens

FROM scratch
ARG VERSION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="nodens" \
      org.opencontainers.image.description="One nameserver on every Kubernetes node that always answers" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.source="${SOURCE}"
COPY --from=build /nodens /nodens
EXPOSE 53/udp 53/tcp
# Root, because port 53 of the host needs it; a sidecar sets runAsUser (config/sidecar.yaml).
ENTRYPOINT ["/nodens"]
CMD ["serve", "--config", "/etc/nodens/nodens.yaml"]
