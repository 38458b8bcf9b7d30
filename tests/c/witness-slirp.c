/* libslirp, unmodified, on a named context, as a GSource that shows its fds: the guest finds its gateway by ARP, pings it, and reaches
 * an echo server on the host's loopback by UDP. */
#include "support.h"
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

static const guint8 guest_mac[6] = { 0x52, 0x54, 0, 0x12, 0x34, 0x56 };
static guint8 gateway_mac[6];
static gint arp_replies, pongs, echoes, wrong_thread;
static gpointer home;

static ssize_t on_packet(const void *data, size_t length, void *opaque)
{
    const guint8 *frame = data;

    (void)opaque;
    if (g_thread_self() != home) {
        g_atomic_int_inc(&wrong_thread);
    }
    if (frame[12] == 8 && frame[13] == 6 && frame[21] == 2) {
        memcpy(gateway_mac, frame + 22, 6);
        g_atomic_int_inc(&arp_replies);
    } else if (frame[12] == 8 && frame[13] == 0 && frame[23] == 1 && frame[34] == 0) {
        g_atomic_int_inc(&pongs);
    } else if (frame[12] == 8 && frame[13] == 0 && frame[23] == 17 && length >= 46 && !memcmp(frame + 42, "echo", 4)) {
        g_atomic_int_inc(&echoes);
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

static void put_checksum(guint8 *place, const guint8 *data, int length)
{
    guint32 sum = 0;

    for (int i = 0; i < length; i += 2) {
        sum += (guint32)(data[i] << 8 | data[i + 1]);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = ~(sum + (sum >> 16));
    place[0] = (guint8)(sum >> 8);
    place[1] = (guint8)sum;
}

typedef struct {
    Slirp *slirp;
    guint8 frame[64];
    int length;
} Frame;

static void send_frame(gpointer data)
{
    Frame *frame = data;

    slirp_input(frame->slirp, frame->frame, frame->length);
}

/* The Ethernet and IP headers of a packet from the guest to its gateway. */
static void ip_frame(Frame *frame, guint8 protocol, int payload)
{
    guint8 *p = frame->frame;

    memset(p, 0, sizeof(frame->frame));
    memcpy(p, gateway_mac, 6);
    memcpy(p + 6, guest_mac, 6);
    p[12] = 8;
    p[14] = 0x45;
    p[17] = (guint8)(20 + payload);
    p[22] = 64;
    p[23] = protocol;
    memcpy(p + 26, "\x0a\x00\x02\x0f\x0a\x00\x02\x02", 8);
    put_checksum(p + 24, p + 14, 20);
    frame->length = 34 + payload;
}

static gpointer echo_server(gpointer data)
{
    int fd = GPOINTER_TO_INT(data);
    struct sockaddr_in peer;
    socklen_t length = sizeof(peer);
    char byte[16];
    ssize_t count = recvfrom(fd, byte, sizeof(byte), 0, (struct sockaddr *)&peer, &length);

    g_assert_cmpint(sendto(fd, byte, (size_t)count, 0, (struct sockaddr *)&peer, length), ==, count);
    return NULL;
}

int main(void)
{
    static GSourceFuncs funcs = { .prepare = prepare, .check = check, .dispatch = dispatch };
    static const SlirpCb callbacks = {
        .send_packet = on_packet, .guest_error = on_error, .clock_get_ns = clock_ns, .timer_new = timer_new,
        .timer_free = timer_free, .timer_mod = timer_mod, .register_poll_fd = poll_fd,
        .unregister_poll_fd = poll_fd, .notify = notify,
    };
    SlirpConfig config = { .version = 1, .in_enabled = true };
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof(address);
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    QContext *ctx = new_threaded("slirp");
    QContextAio *aio = qcontext_get_aio(ctx, NULL);
    Probe probe = { 0 };
    QContextBh *bh = qcontext_bh_new(aio, "witness", probe_call, &probe, probe_destroy);

    alarm(TEST_DEADLINE_S);
    home = home_of(ctx);
    g_assert_cmpint(bind(udp, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(getsockname(udp, (struct sockaddr *)&address, &length), ==, 0);
    GThread *server = g_thread_new("echo", echo_server, GINT_TO_POINTER(udp));
    inet_pton(AF_INET, "10.0.2.0", &config.vnetwork);
    inet_pton(AF_INET, "255.255.255.0", &config.vnetmask);
    inet_pton(AF_INET, "10.0.2.2", &config.vhost);
    inet_pton(AF_INET, "10.0.2.15", &config.vdhcp_start);
    inet_pton(AF_INET, "10.0.2.3", &config.vnameserver);
    Slirp *slirp = slirp_new(&config, &callbacks, aio);
    SlirpSource *source = (SlirpSource *)g_source_new(&funcs, sizeof(SlirpSource));
    source->slirp = slirp;
    source->watches = g_array_new(FALSE, FALSE, sizeof(Watch));
    source->wanted = g_array_new(FALSE, FALSE, sizeof(Watch));
    g_assert_cmpuint(qcontext_attach_source(ctx, &source->source, "slirp", NULL), !=, 0);

    Frame arp = { .slirp = slirp, .length = 42 };
    memset(arp.frame, 0xff, 6);
    memcpy(arp.frame + 6, guest_mac, 6);
    memcpy(arp.frame + 12, "\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01", 10);
    memcpy(arp.frame + 22, guest_mac, 6);
    memcpy(arp.frame + 28, "\x0a\x00\x02\x0f\0\0\0\0\0\0\x0a\x00\x02\x02", 14);
    g_assert_true(qcontext_invoke_sync(ctx, send_frame, &arp, NULL));
    wait_for(&arp_replies, 1);

    Frame ping = { .slirp = slirp };
    ip_frame(&ping, 1, 8);
    ping.frame[34] = 8;
    put_checksum(ping.frame + 36, ping.frame + 34, 8);
    g_assert_true(qcontext_invoke_sync(ctx, send_frame, &ping, NULL));
    wait_for(&pongs, 1);

    Frame datagram = { .slirp = slirp };
    ip_frame(&datagram, 17, 12);
    memcpy(datagram.frame + 34, "\x12\x34", 2);
    memcpy(datagram.frame + 36, &address.sin_port, 2);
    datagram.frame[39] = 12;
    memcpy(datagram.frame + 42, "echo", 4);
    g_assert_true(qcontext_invoke_sync(ctx, send_frame, &datagram, NULL));
    do {
        qcontext_bh_schedule(bh);
        g_usleep(100);
    } while (!g_atomic_int_get(&echoes));
    wait_for(&probe.calls, 1);
    g_assert_cmpint(wrong_thread, ==, 0);
    g_thread_join(server);
    qcontext_bh_delete(bh);
    qcontext_aio_unref(aio);
    g_assert_true(qcontext_stop(ctx, NULL));
    g_assert_true(g_source_is_destroyed(&source->source));
    g_array_unref(source->watches);
    g_array_unref(source->wanted);
    g_source_unref(&source->source);
    slirp_cleanup(slirp);
    qcontext_unref(ctx);
    close(udp);
    return 0;
}
