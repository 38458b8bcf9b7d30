/* Ethernet frames as a guest sends them: ARP, ping, UDP, DHCP, TCP. */
#ifndef FRAMES_H
#define FRAMES_H

#include <glib.h>
#include <string.h>

enum { FRAME_MAX = 512, ETHERNET = 14, IP = ETHERNET + 20, UDP_HEADER = 8, TCP_HEADER = 20, BOOTP = 240 };
enum { TCP_FIN = 1, TCP_SYN = 2, TCP_PUSH = 8, TCP_ACK = 16 };
enum { PROTOCOL_ICMP = 1, PROTOCOL_TCP = 6, PROTOCOL_UDP = 17 };
enum { DHCP_DISCOVER = 1, DHCP_OFFER = 2, DHCP_REQUEST = 3, DHCP_ACK = 5 };

typedef struct {
    guint8 mac[6], gateway_mac[6];
    guint32 address, gateway;
} Guest;

typedef struct {
    guint8 bytes[FRAME_MAX];
    int length;
} Frame;

static inline void put16(guint8 *place, guint16 value)
{
    place[0] = (guint8)(value >> 8);
    place[1] = (guint8)value;
}

static inline void put32(guint8 *place, guint32 value)
{
    put16(place, (guint16)(value >> 16));
    put16(place + 2, (guint16)value);
}

static inline guint16 get16(const guint8 *place)
{
    return (guint16)(place[0] << 8 | place[1]);
}

static inline guint32 get32(const guint8 *place)
{
    return (guint32)get16(place) << 16 | get16(place + 2);
}

static inline guint32 sum16(guint32 sum, const guint8 *data, int length)
{
    for (int i = 0; i < length; i++) {
        sum += (guint32)(i % 2 ? data[i] : data[i] << 8);
    }
    return sum;
}

static inline void put_checksum(guint8 *place, guint32 sum)
{
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    put16(place, (guint16)~sum);
}

static inline void ip_frame(Frame *frame, const guint8 *to_mac, const Guest *guest, guint32 from, guint32 to,
                            guint8 protocol, int payload)
{
    guint8 *p = frame->bytes;

    memcpy(p, to_mac, 6);
    memcpy(p + 6, guest->mac, 6);
    put16(p + 12, 0x0800);
    p[14] = 0x45;
    put16(p + 16, (guint16)(20 + payload));
    p[22] = 64;
    p[23] = protocol;
    put32(p + 26, from);
    put32(p + 30, to);
    put_checksum(p + 24, sum16(0, p + ETHERNET, 20));
    frame->length = IP + payload;
}

static inline Frame arp_request(const Guest *guest)
{
    Frame frame = { .length = 42 };
    guint8 *p = frame.bytes;

    memset(p, 0xff, 6);
    memcpy(p + 6, guest->mac, 6);
    memcpy(p + 12, "\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01", 10);
    memcpy(p + 22, guest->mac, 6);
    put32(p + 28, guest->address);
    put32(p + 38, guest->gateway);
    return frame;
}

static inline Frame ping(const Guest *guest)
{
    Frame frame = { .length = 0 };

    frame.bytes[IP] = 8;
    put_checksum(frame.bytes + IP + 2, sum16(0, frame.bytes + IP, 8));
    ip_frame(&frame, guest->gateway_mac, guest, guest->address, guest->gateway, PROTOCOL_ICMP, 8);
    return frame;
}

static inline void put_udp(Frame *frame, guint16 from, guint16 to, const void *data, int length)
{
    put16(frame->bytes + IP, from);
    put16(frame->bytes + IP + 2, to);
    put16(frame->bytes + IP + 4, (guint16)(UDP_HEADER + length));
    memcpy(frame->bytes + IP + UDP_HEADER, data, (size_t)length);
}

static inline Frame datagram(const Guest *guest, guint16 from, guint16 to, const char *text)
{
    Frame frame = { .length = 0 };
    int length = (int)strlen(text);

    put_udp(&frame, from, to, text, length);
    ip_frame(&frame, guest->gateway_mac, guest, guest->address, guest->gateway, PROTOCOL_UDP, UDP_HEADER + length);
    return frame;
}

/* A request for an address: what is offered, or without one whatever there is. */
static inline Frame dhcp(const Guest *guest, guint8 type, guint32 offered)
{
    static const guint8 broadcast[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    Frame frame = { .length = 0 };
    guint8 message[BOOTP + 60] = { 1, 1, 6, 0, 'q', 'c', 't', 'x' }, *options = message + BOOTP;

    memcpy(message + 28, guest->mac, 6);
    put32(message + 236, 0x63825363);
    memcpy(options, (guint8[]) { 53, 1, type }, 3);
    options += 3;
    if (offered) {
        memcpy(options, "\x32\x04", 2);
        put32(options + 2, offered);
        memcpy(options + 6, "\x36\x04", 2);
        put32(options + 8, guest->gateway);
        options += 12;
    }
    *options = 255;
    put_udp(&frame, 68, 67, message, (int)sizeof(message));
    ip_frame(&frame, broadcast, guest, 0, 0xffffffff, PROTOCOL_UDP, UDP_HEADER + (int)sizeof(message));
    return frame;
}

/* The type of a DHCP answer, 0 for anything else; the address it is about. */
static inline guint8 dhcp_type(const guint8 *p, size_t length, guint32 *address)
{
    size_t options = IP + UDP_HEADER + BOOTP;

    if (length < options || get16(p + 12) != 0x0800 || p[23] != PROTOCOL_UDP || get16(p + IP) != 67) {
        return 0;
    }
    *address = get32(p + IP + UDP_HEADER + 16);
    while (options + 2 < length && p[options] != 255) {
        if (p[options] == 53) {
            return p[options + 2];
        }
        options += p[options] ? 2u + p[options + 1] : 1u;
    }
    return 0;
}

/* One end of a TCP connection to the gateway. */
typedef struct {
    guint16 port, peer_port;
    guint32 next, acknowledged;
} Tcp;

static inline Frame segment(const Guest *guest, Tcp *tcp, guint8 flags, const char *text)
{
    Frame frame = { .length = 0 };
    guint8 *p = frame.bytes + IP, pseudo[12] = { 0 };
    int length = (int)strlen(text);

    put16(p, tcp->port);
    put16(p + 2, tcp->peer_port);
    put32(p + 4, tcp->next);
    put32(p + 8, tcp->acknowledged);
    p[12] = TCP_HEADER / 4 << 4;
    p[13] = flags;
    put16(p + 14, 0x4000);
    memcpy(p + TCP_HEADER, text, (size_t)length);
    put32(pseudo, guest->address);
    put32(pseudo + 4, guest->gateway);
    pseudo[9] = PROTOCOL_TCP;
    put16(pseudo + 10, (guint16)(TCP_HEADER + length));
    put_checksum(p + 16, sum16(sum16(0, pseudo, 12), p, TCP_HEADER + length));
    tcp->next += (guint32)length + (flags & (TCP_SYN | TCP_FIN) ? 1 : 0);
    ip_frame(&frame, guest->gateway_mac, guest, guest->address, guest->gateway, PROTOCOL_TCP, TCP_HEADER + length);
    return frame;
}

/* The part of a TCP packet behind its header. */
static inline const guint8 *tcp_payload(const guint8 *p, int *length)
{
    int header = p[IP + 12] >> 4 << 2;

    *length = get16(p + 16) - 20 - header;
    return p + IP + header;
}

#endif
