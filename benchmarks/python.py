"""A Python program of everyday work: objects, dictionaries, strings, numbers, sorting."""


class Node:
    def __init__(self, key):
        self.key = key
        self.left = None
        self.right = None

    def insert(self, key):
        node = self
        while True:
            side = "left" if key < node.key else "right"
            child = getattr(node, side)
            if child is None:
                setattr(node, side, Node(key))
                return
            node = child

    def depth(self):
        return 1 + max((child.depth() for child in (self.left, self.right) if child), default=0)


def primes(limit):
    sieve = bytearray([1]) * limit
    for i in range(2, int(limit**0.5) + 1):
        if sieve[i]:
            sieve[i * i :: i] = bytes(len(range(i * i, limit, i)))
    return sum(sieve) - 2


def words(count):
    counts = {}
    state = 1
    for _ in range(count):
        state = (state * 1103515245 + 12345) % 2147483648
        word = "w%d" % (state % 977)
        counts[word] = counts.get(word, 0) + 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[0]


def mean(count):
    total = 0.0
    for i in range(1, count):
        total += (i % 7) / i
    return total


state = 7
root = Node(500000)
for _ in range(4000):
    state = (state * 1103515245 + 12345) % 2147483648
    root.insert(state)
print(root.depth(), primes(200000), *words(30000), "%.9f" % mean(60000))
