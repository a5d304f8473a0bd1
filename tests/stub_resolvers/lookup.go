// Asks Go's own resolver for a name's addresses. Prints one a line; or what went wrong, with status 1.
package main

import (
	"context"
	"fmt"
	"net"
	"os"
)

func main() {
	resolver := net.Resolver{PreferGo: true}
	found, err := resolver.LookupHost(context.Background(), os.Args[1])
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, address := range found {
		fmt.Println(address)
	}
}
