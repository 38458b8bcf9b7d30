/* libslirp, unmodified, on a named context, as a GSource that shows its fds. The guest finds its gateway by ARP, is given an address by
 * DHCP, pings the gateway and reaches an echo server on the host's loopback by UDP; then the whole stack moves to another context,
 * and the guest talks to a listener on loopback by TCP. */
#include "support.h"
#include "frames.h"
#include <arpa/inet.h>
#include <libslirp.h>
#include <sys/socket.h>

typedef struct {
    int fd, events, revents;
    gpointer tag;
} Watch;

typedef struct {
    GSource source;
    Slirp *slirp;
    GArray *watches, *wanted;
} SlirpSource;

static Guest guest = { { 0x52, 0x54, 0, 0x12, 0x34, 0x56 }, { 0 }, 0, 0x0a000202 };
static gint arp_replies, offers, leases, pongs, echoes, wrong_thread, tcp_closed;
static gpointer home;
/* Touched by the thread that runs the stack only. */
static guint32 offered;
static Tcp tcp = { .port = 40000, .next = 1000 };
static char tcp_received[64];
static Slirp *stack;
static QContextAio *stack_aio;

static void send_frame(gpointer frame)
{
    slirp_input(stack, ((Frame *)frame)->bytes, ((Frame *)frame)->length);
}

/* Not from inside the stack, which is calling. */
static void answer(Frame frame)
{
    g_assert_true(qcontext_bh_oneshot(stack_aio, "answer", send_frame, g_memdup2(&frame, sizeof(frame)), g_free));
}

/* The guest's side of the connection: greets, collects what comes back, closes after all of it. */
static void on_tcp(const guint8 *p)
{
    guint8 flags = p[IP + 13];
    int length;
    const guint8 *payload = tcp_payload(p, &length);

    g_assert_cmpint(get16(p + IP), ==, tcp.peer_port);
    if (flags & TCP_SYN) {
        tcp.acknowledged = get32(p + IP + 4) + 1;
        answer(segment(&guest, &tcp, TCP_ACK | TCP_PUSH, "hello over tcp"));
        return;
    }
    if (get32(p + IP + 4) != tcp.acknowledged) {
        /* Sent again. */
        return;
    }
    if (length > 0) {
        g_assert_cmpint((int)strlen(tcp_received) + length, <, (int)sizeof(tcp_received));
        strncat(tcp_received, (const char *)payload, (size_t)length);
        tcp.acknowledged += (guint32)length;
        gboolean all = strlen(tcp_received) == strlen("hello over tcp");
        answer(segment(&guest, &tcp, (guint8)(TCP_ACK | (all ? TCP_FIN : 0)), ""));
    }
    if (flags & TCP_FIN) {
        tcp.acknowledged++;
        answer(segment(&guest, &tcp, TCP_ACK, ""));
        g_atomic_int_set(&tcp_closed, 1);
    }
}

static ssize_t on_packet(const void *data, size_t length, void *opaque)
{
    const guint8 *p = data;
    guint32 address = 0;
    guint8 dhcp_answer = dhcp_type(p, length, &address);

    (void)opaque;
    if (g_thread_self() != g_atomic_pointer_get(&home)) {
        g_atomic_int_inc(&wrong_thread);
    }
    if (dhcp_answer == DHCP_OFFER) {
        offered = address;
        g_atomic_int_inc(&offers);
        answer(dhcp(&guest, DHCP_REQUEST, offered));
    } else if (dhcp_answer == DHCP_ACK) {
        g_assert_cmphex(address, ==, offered);
        guest.address = address;
        g_atomic_int_inc(&leases);
    } else if (get16(p + 12) == 0x0806 && p[21] == 2) {
        memcpy(guest.gateway_mac, p + 22, 6);
        g_atomic_int_inc(&arp_replies);
    } else if (get16(p + 12) != 0x0800) {
        return (ssize_t)length;
    } else if (p[23] == PROTOCOL_ICMP && p[IP] == 0) {
        g_atomic_int_inc(&pongs);
    } else if (p[23] == PROTOCOL_UDP && length >= 46 && !memcmp(p + IP + UDP_HEADER, "echo", 4)) {
        g_atomic_int_inc(&echoes);
    } else if (p[23] == PROTOCOL_TCP) {
        on_tcp(p);
    }
    return (ssize_t)length;
}

static void on_error(const char *message, void *opaque)
{
    (void)opaque;
    g_error("%s", message);
}

static int64_t clock_ns(void *opaque)
{
    (void)opaque;
    return qcontext_clock_get_ns(QCONTEXT_CLOCK_VIRTUAL);
}

static void *timer_new(SlirpTimerCb func, void *data, void *opaque)
{
    return qcontext_timer_new(opaque, QCONTEXT_CLOCK_VIRTUAL, 1000000, func, data, NULL);
}

static void timer_free(void *timer, void *opaque)
{
    (void)opaque;
    qcontext_timer_free(timer);
}

static void timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
    (void)opaque;
    qcontext_timer_mod(timer, expire_ms);
}

static void poll_fd(int fd, void *opaque)
{
    (void)fd, (void)opaque;
}

static void notify(void *opaque)
{
    qcontext_aio_notify(opaque);
}

static int add_poll(int fd, int events, void *opaque)
{
    SlirpSource *self = opaque;
    Watch watch = { .fd = fd };

    watch.events = (events & SLIRP_POLL_IN ? G_IO_IN : 0) | (events & SLIRP_POLL_OUT ? G_IO_OUT : 0)
                   | (events & SLIRP_POLL_PRI ? G_IO_PRI : 0);
    g_array_append_val(self->wanted, watch);
    return (int)self->wanted->len - 1;
}

static int get_revents(int index, void *opaque)
{
    int ready = (int)g_array_index(((SlirpSource *)opaque)->watches, Watch, index).revents;

    return (ready & G_IO_IN ? SLIRP_POLL_IN : 0) | (ready & G_IO_OUT ? SLIRP_POLL_OUT : 0)
           | (ready & G_IO_PRI ? SLIRP_POLL_PRI : 0) | (ready & G_IO_ERR ? SLIRP_POLL_ERR : 0)
           | (ready & G_IO_HUP ? SLIRP_POLL_HUP : 0);
}

static gboolean is_same(GArray *a, GArray *b)
{
    for (guint i = 0; a->len == b->len && i < a->len; i++) {
        Watch *x = &g_array_index(a, Watch, i), *y = &g_array_index(b, Watch, i);

        if (x->fd != y->fd || x->events != y->events) {
            return FALSE;
        }
    }
    return a->len == b->len;
}

static gboolean prepare(GSource *source, gint *timeout)
{
    SlirpSource *self = (SlirpSource *)source;
    guint32 limit = G_MAXINT32;

    g_array_set_size(self->wanted, 0);
    slirp_pollfds_fill(self->slirp, &limit, add_poll, self);
    if (!is_same(self->watches, self->wanted)) {
        for (guint i = 0; i < self->watches->len; i++) {
            g_source_remove_unix_fd(source, g_array_index(self->watches, Watch, i).tag);
        }
        g_array_set_size(self->watches, 0);
        for (guint i = 0; i < self->wanted->len; i++) {
            Watch watch = g_array_index(self->wanted, Watch, i);

            watch.tag = g_source_add_unix_fd(source, watch.fd, (GIOCondition)watch.events);
            g_array_append_val(self->watches, watch);
        }
    }
    *timeout = limit == G_MAXINT32 ? -1 : (gint)limit;
    return FALSE;
}

static gboolean check(GSource *source)
{
    SlirpSource *self = (SlirpSource *)source;
    gboolean ready = FALSE;

    for (guint i = 0; i < self->watches->len; i++) {
        Watch *watch = &g_array_index(self->watches, Watch, i);

        watch->revents = (int)g_source_query_unix_fd(source, watch->tag);
        ready |= watch->revents != 0;
    }
    return ready;
}

static gboolean dispatch(GSource *source, GSourceFunc func, gpointer data)
{
    (void)func, (void)data;
    slirp_pollfds_poll(((SlirpSource *)source)->slirp, 0, get_revents, source);
    return G_SOURCE_CONTINUE;
}

static int loopback(int type, guint16 *port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof(address);
    int fd = socket(AF_INET, type, 0);

    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(getsockname(fd, (struct sockaddr *)&address, &length), ==, 0);
    *port = ntohs(address.sin_port);
    return fd;
}

static gpointer echo_server(gpointer data)
{
    int fd = GPOINTER_TO_INT(data);
    struct sockaddr_in peer;
    socklen_t length = sizeof(peer);
    char bytes[16];
    ssize_t count = recvfrom(fd, bytes, sizeof(bytes), 0, (struct sockaddr *)&peer, &length);

    g_assert_cmpint(sendto(fd, bytes, (size_t)count, 0, (struct sockaddr *)&peer, length), ==, count);
    return NULL;
}

/* Sends back what comes, until the other side closes. */
static gpointer tcp_server(gpointer data)
{
    int fd = accept(GPOINTER_TO_INT(data), NULL, NULL);
    char bytes[64];
    ssize_t count;

    g_assert_cmpint(fd, >=, 0);
    while ((count = read(fd, bytes, sizeof(bytes))) > 0) {
        g_assert_cmpint(write(fd, bytes, (size_t)count), ==, count);
    }
    g_assert_cmpint(count, ==, 0);
    close(fd);
    return NULL;
}

static SlirpSource *attach(QContext *ctx)
{
    static GSourceFuncs funcs = { .prepare = prepare, .check = check, .dispatch = dispatch };
    SlirpSource *source = (SlirpSource *)g_source_new(&funcs, sizeof(SlirpSource));

    source->slirp = stack;
    source->watches = g_array_new(FALSE, FALSE, sizeof(Watch));
    source->wanted = g_array_new(FALSE, FALSE, sizeof(Watch));
    g_atomic_pointer_set(&home, home_of(ctx));
    g_assert_cmpuint(qcontext_attach_source(ctx, &source->source, "slirp", NULL), !=, 0);
    return source;
}

/* The source is destroyed. */
static void release(SlirpSource *source)
{
    g_assert_true(g_source_is_destroyed(&source->source));
    g_array_unref(source->watches);
    g_array_unref(source->wanted);
    g_source_unref(&source->source);
}

static void destroy_source(gpointer source)
{
    g_source_destroy(source);
}

/* From the thread of the test, while a bottom half is scheduled from there, too. */
static void send_and_wait(QContext *ctx, Frame frame, gint *event, QContextBh *bh)
{
    g_assert_true(qcontext_invoke_sync(ctx, send_frame, &frame, NULL));
    do {
        qcontext_bh_schedule(bh);
        g_usleep(100);
    } while (!g_atomic_int_get(event));
}

int main(void)
{
    static const SlirpCb callbacks = {
        .send_packet = on_packet, .guest_error = on_error, .clock_get_ns = clock_ns, .timer_new = timer_new,
        .timer_free = timer_free, .timer_mod = timer_mod, .register_poll_fd = poll_fd,
        .unregister_poll_fd = poll_fd, .notify = notify,
    };
    SlirpConfig config = { .version = 1, .in_enabled = true };
    guint16 udp_port;
    int udp = loopback(SOCK_DGRAM, &udp_port), listener = loopback(SOCK_STREAM, &tcp.peer_port);
    QContext *first = new_threaded("slirp1"), *second = new_threaded("slirp2");
    Probe probe = { 0 };

    alarm(TEST_DEADLINE_S);
    stack_aio = qcontext_aio_new(NULL);
    g_assert_true(qcontext_aio_attach(stack_aio, first, "slirp-timers", NULL));
    QContextBh *bh = qcontext_bh_new(stack_aio, "witness", probe_call, &probe, probe_destroy);
    g_assert_cmpint(listen(listener, 1), ==, 0);
    GThread *servers[2] = { g_thread_new("echo", echo_server, GINT_TO_POINTER(udp)),
                            g_thread_new("tcp", tcp_server, GINT_TO_POINTER(listener)) };
    inet_pton(AF_INET, "10.0.2.0", &config.vnetwork);
    inet_pton(AF_INET, "255.255.255.0", &config.vnetmask);
    inet_pton(AF_INET, "10.0.2.2", &config.vhost);
    inet_pton(AF_INET, "10.0.2.15", &config.vdhcp_start);
    inet_pton(AF_INET, "10.0.2.3", &config.vnameserver);
    stack = slirp_new(&config, &callbacks, stack_aio);
    SlirpSource *source = attach(first);

    send_and_wait(first, dhcp(&guest, DHCP_DISCOVER, 0), &leases, bh);
    g_assert_cmpint(offers, ==, 1);
    g_assert_cmphex(guest.address, ==, 0x0a00020f);
    send_and_wait(first, arp_request(&guest), &arp_replies, bh);
    send_and_wait(first, ping(&guest), &pongs, bh);
    send_and_wait(first, datagram(&guest, 0x1234, udp_port, "echo"), &echoes, bh);
    gint before = probe.calls;
    g_assert_cmpint(before, >, 0);
    g_assert_true(probe.call_thread == home);

    /* Everything of the stack moves: the source, and the AioContext with its timers and bottom halves. */
    g_assert_true(qcontext_invoke_sync(first, destroy_source, source, NULL));
    release(source);
    g_assert_true(qcontext_aio_move(stack_aio, first, second, "slirp-timers", NULL));
    g_assert_true(qcontext_stop(first, NULL));
    source = attach(second);
    send_and_wait(second, segment(&guest, &tcp, TCP_SYN, ""), &tcp_closed, bh);
    g_assert_cmpstr(tcp_received, ==, "hello over tcp");
    wait_for(&probe.calls, before + 1);
    g_assert_true(probe.call_thread == home);
    g_assert_cmpint(wrong_thread, ==, 0);
    for (int i = 0; i < 2; i++) {
        g_thread_join(servers[i]);
    }
    qcontext_bh_delete(bh);
    g_assert_true(qcontext_stop(second, NULL));
    release(source);
    slirp_cleanup(stack);
    qcontext_aio_unref(stack_aio);
    qcontext_unref(first);
    qcontext_unref(second);
    close(udp);
    close(listener);
    return 0;
}
