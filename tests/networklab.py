"""What tests of the containers' network share."""

# Answers on TCP and UDP, IPv4 and IPv6, with its name and the address that it sees the client at.
SERVER = """
import socket, sys, threading
name, port = sys.argv[1], int(sys.argv[2])
udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
udp.bind(("::", port))
tcp = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
def say(client):
    return f"{name} {client[0].removeprefix('::ffff:')}".encode()
def datagrams():
    while True:
        client = udp.recvfrom(100)[1]
        udp.sendto(say(client), client)
threading.Thread(target=datagrams, daemon=True).start()
while True:
    sock, client = tcp.accept()
    with sock:
        sock.sendall(say(client))
"""
